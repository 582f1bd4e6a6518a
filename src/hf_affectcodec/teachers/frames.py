"""Any encoder of the Hub whose hidden states are frames at a known rate."""

import math
import os
from collections.abc import Sequence

import torch
from transformers import AutoFeatureExtractor, AutoModel

from ..audio import resample
from .alignment import HOP_LENGTH, SAMPLING_RATE, interpolate_to_frames, num_codec_frames, windows
from .frozen import check_waveforms, commit_of, freeze, load_frozen, weights_sha256


_SHORTEST = 400  # samples at 16 kHz, the receptive field of wav2vec 2.0's convolutions: shorter input raises


class FrameTeacher:
    """
    Features of a transformer encoder, one vector a codec frame.

    Items are run one by one and unpadded (but for what the processor itself pads, as Whisper's does to 30 s), in
    windows where the model takes no more than `window_seconds`. Of what the model returns the first
    `ceil(T * frame_rate / 16000)` frames are taken and interpolated to codec frames; at 50 Hz they are taken as they
    are. Where the model makes one frame fewer than the codec, as unpadded convolutions do, the last is repeated.

    Args:
        model (`torch.nn.Module`): Model whose output has `last_hidden_state` (and `hidden_states`) `[1, T', C]`. It is
            frozen and set to evaluation mode.
        processor: Feature extractor called with (`[T]` array, `sampling_rate`, `return_tensors`), with an attribute
            `sampling_rate`; its result is the input of `model`.
        frame_rate (`float`, *optional*, defaults to 50.0): Frames a second of the hidden states.
        layer (`int` or `str`, *optional*, defaults to `"last"`): `"last"`: `last_hidden_state`; an integer: that one of
            `hidden_states` (0 is the input of the first layer); `"mean"`: the mean of all `hidden_states`.
        window_seconds (`float`, *optional*): Longest input; a multiple of 0.02 s. `None`: a clip is run whole.
        source (`str`, *optional*): Where the model came from, for `description`; by default its `name_or_path`.
        revision (`str`, *optional*): Commit it came from, for `description`.

    Raises:
        ValueError: `frame_rate`, `layer` or `window_seconds` is out of range.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor,
        frame_rate: float = 50.0,
        layer: int | str = "last",
        window_seconds: float | None = None,
        source: str | None = None,
        revision: str | None = None,
    ):
        if not frame_rate > 0:
            raise ValueError(f"`frame_rate` must be positive, in Hz, got {frame_rate}")
        if layer not in ("last", "mean") and not (isinstance(layer, int) and layer >= 0):
            raise ValueError(f"`layer` must be 'last', 'mean' or an index of hidden_states, got {layer!r}")
        window = None if window_seconds is None else round(window_seconds * SAMPLING_RATE)
        if window is not None and (window < HOP_LENGTH or window % HOP_LENGTH):
            raise ValueError(f"`window_seconds` must be a positive multiple of 0.02, got {window_seconds}")
        self.model = freeze(model)
        self.processor = processor
        self.frame_rate = frame_rate
        self.layer = layer
        self.window_samples = window
        self.feature_size = model.config.hidden_size
        self.description = {
            "teacher": type(self).__name__,
            "source": source or model.config.name_or_path,
            "revision": revision,
            "weights_sha256": weights_sha256(model),
            "feature_size": self.feature_size,
            "frame_rate": frame_rate,
            "layer": layer,
            "window_seconds": window_seconds,
        }

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike",
        frame_rate: float = 50.0,
        layer: int | str = "last",
        window_seconds: float | None = None,
        revision: str = "main",
        device: "str | torch.device" = "cpu",
        trust_remote_code: bool = False,
    ) -> "FrameTeacher":
        """
        Loads a model by Hub id or folder through `AutoModel` and `AutoFeatureExtractor`.

        Args:
            source (`str` or `os.PathLike`): Hub id or folder.
            revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit.
            device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the model runs.
            trust_remote_code (`bool`, *optional*, defaults to `False`): Runs code that the repository holds.
        """
        trust = {"trust_remote_code": trust_remote_code}
        model = load_frozen(AutoModel, source, revision, device, **trust)
        processor = AutoFeatureExtractor.from_pretrained(source, revision=revision, **trust)
        return cls(model, processor, frame_rate, layer, window_seconds, str(source), commit_of(source, revision))

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Waveforms `[T]` at 16 kHz to features `[ceil(T / 320), C]`, see [`~hf_affectcodec.teachers.Teacher`]."""
        check_waveforms(waveforms)
        return [self._features(waveform) for waveform in waveforms]

    def _features(self, waveform: torch.Tensor) -> torch.Tensor:
        features, times = [], []
        for start, stop, keep in windows(len(waveform), self.window_samples):
            hidden = self._hidden_states(waveform[start:stop])
            hidden = hidden[: max(1, math.ceil((stop - start) * self.frame_rate / SAMPLING_RATE))]
            # float64 throughout, so that at 50 Hz these are the very times of the codec's frames
            first = start * self.frame_rate / SAMPLING_RATE
            at = (torch.arange(len(hidden), dtype=torch.float64) + first + 0.5) / self.frame_rate
            kept = at >= keep / SAMPLING_RATE
            features.append(hidden[kept.to(hidden.device)])
            times.append(at[kept])
        return interpolate_to_frames(torch.cat(features), torch.cat(times), num_codec_frames(len(waveform)))

    def _hidden_states(self, waveform: torch.Tensor) -> torch.Tensor:
        """[T] at 16 kHz -> [T', C]"""
        waveform = torch.nn.functional.pad(waveform.float().cpu(), (0, max(0, _SHORTEST - len(waveform))))
        rate = self.processor.sampling_rate
        waveform = resample(waveform, SAMPLING_RATE, rate)
        inputs = self.processor(waveform.numpy(), sampling_rate=rate, return_tensors="pt").to(self.model.device)
        if self.layer == "last":
            return self.model(**inputs).last_hidden_state[0]
        hidden_states = self.model(**inputs, output_hidden_states=True).hidden_states
        return torch.stack(hidden_states).mean(0)[0] if self.layer == "mean" else hidden_states[self.layer][0]
