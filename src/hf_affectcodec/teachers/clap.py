"""CLAP, the emotion teacher of arXiv 2605.11098: frame features of its audio tower."""

import math
import os
from collections.abc import Sequence

import torch
from transformers import ClapAudioModel, ClapAudioModelWithProjection, ClapFeatureExtractor

from ..audio import resample
from .alignment import HOP_LENGTH, SAMPLING_RATE, frame_times, interpolate_to_frames, num_codec_frames, windows
from .frozen import check_waveforms, commit_of, freeze, load_frozen, weights_sha256


class ClapTeacher:
    """
    Last hidden state of a CLAP audio tower (HTSAT), averaged over frequency and interpolated to codec frames.

    The paper does not say what its "frame-level CLAP embeddings" of 768 channels are. The map before CLAP's pooling is
    `[768, 2, 32]`: 2 frequency bands, 32 steps in time for 10 s (3.2 a second). Its mean over frequency is what LAION's
    own code calls `fine_grained_embedding`, before that code repeats each step 32 times; here steps are interpolated
    linearly instead, see `alignment.py`.

    As the released preprocessing does, waveforms are resampled to 48 kHz, a clip under 10 s is repeated as often as it
    fits and then padded with zeros ("repeatpad"), and log-mel features are taken. Of the 32 steps the first
    `ceil(32 * seconds / 10)` belong to the clip; step i is at `(i + 0.5) * 10 / 32` s. Longer clips are run in windows
    of 10 s one after the other; the last window is the clip's last 10 s (to a codec frame), of which the steps past
    the end of the window before are kept. Nothing is random: the extractor's random truncation is never reached.

    Order in time is kept, locality is approximate: the network folds the spectrogram into a 256 x 256 image.

    Args:
        model (`ClapAudioModel`): The audio tower; a `ClapModel` has it as `audio_model`. Frozen in place.
        processor (`ClapFeatureExtractor`): Its feature extractor.
        source (`str`, *optional*): Where the model came from, for `description`.
        revision (`str`, *optional*): Commit it came from, for `description`.

    Raises:
        ValueError: `processor` has a window that is no whole number of codec frames.
    """

    def __init__(
        self,
        model: ClapAudioModel,
        processor: ClapFeatureExtractor,
        source: str | None = None,
        revision: str | None = None,
    ):
        window = processor.nb_max_samples * SAMPLING_RATE / processor.sampling_rate
        if window % HOP_LENGTH:
            raise ValueError(f"`processor` must have a window of whole codec frames (0.02 s), got {window} samples")
        self.model = freeze(model)
        self.processor = processor
        self.window_samples = int(window)
        self.feature_size = model.config.hidden_size
        self.description = {
            "teacher": type(self).__name__,
            "source": source or model.config.name_or_path,
            "revision": revision,
            "weights_sha256": weights_sha256(model),
            "feature_size": self.feature_size,
            "window_seconds": self.window_samples / SAMPLING_RATE,
        }

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike" = "laion/clap-htsat-unfused",
        revision: str = "main",
        device: "str | torch.device" = "cpu",
    ) -> "ClapTeacher":
        """Loads the audio tower of a CLAP by Hub id or folder."""
        # A released CLAP names its tower `audio_model.*`. `ClapAudioModel` does not know that prefix and would stay random.
        model = load_frozen(ClapAudioModelWithProjection, source, revision, device).audio_model
        processor = ClapFeatureExtractor.from_pretrained(source, revision=revision)
        return cls(model, processor, str(source), commit_of(source, revision))

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Waveforms `[T]` at 16 kHz to features `[ceil(T / 320), C]`, see [`~hf_affectcodec.teachers.Teacher`]."""
        check_waveforms(waveforms)
        return [self._features(waveform) for waveform in waveforms]

    def _features(self, waveform: torch.Tensor) -> torch.Tensor:
        steps, times = [], []
        for start, stop, keep in windows(len(waveform), self.window_samples):
            hidden = self._hidden_states(waveform[start:stop])
            rate = len(hidden) * SAMPLING_RATE / self.window_samples
            hidden = hidden[: math.ceil(len(hidden) * (stop - start) / self.window_samples)]
            at = frame_times(len(hidden), rate, start / SAMPLING_RATE)
            kept = at >= keep / SAMPLING_RATE
            steps.append(hidden[kept.to(hidden.device)])
            times.append(at[kept])
        return interpolate_to_frames(torch.cat(steps), torch.cat(times), num_codec_frames(len(waveform)))

    def _hidden_states(self, waveform: torch.Tensor) -> torch.Tensor:
        """[T] at 16 kHz, at most a window -> [32, C] for the whole window"""
        waveform = resample(waveform.float().cpu(), SAMPLING_RATE, self.processor.sampling_rate)
        waveform = waveform[: self.processor.nb_max_samples]
        fused = self.model.config.enable_fusion
        inputs = self.processor(
            waveform.numpy(),
            sampling_rate=self.processor.sampling_rate,
            truncation="fusion" if fused else "rand_trunc",
            padding="repeatpad",
            return_tensors="pt",
        )
        # The extractor marks a random clip as longer than the window; none is.
        is_longer = torch.zeros(1, 1, dtype=torch.bool, device=self.model.device)
        features = inputs["input_features"].to(self.model.device, torch.float32)
        return self.model(features, is_longer=is_longer).last_hidden_state[0].mean(1).T
