"""
Speaker similarity (SIM-O): cosine of speaker embeddings, and the figures that it has to be read against.

Different voices are far from a cosine of 0, and each encoder has a scale of its own: print the encoder, and
[`speaker_anchors`] of the same recordings, with every value.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

from hf_affectcodec.teachers.frozen import commit_of, freeze, load_frozen, weights_sha256

from .waveforms import check_audible, check_waveform


SAMPLING_RATE = 16000  # Hz


class XVectorEncoder:
    """
    Embeddings of a speaker-verification model of transformers: x-vector head (Snyder et al., 2018) on WavLM, wav2vec 2.0,
    UniSpeech-SAT and the like. Clips are run one by one and whole.

    Args:
        model (`PreTrainedModel`): Of the `...ForXVector` classes. Frozen in place.
        feature_extractor (`Wav2Vec2FeatureExtractor`): Its feature extractor.
        source, revision (`str`, *optional*): Where the model came from, for `description`.
    """

    def __init__(
        self, model: torch.nn.Module, feature_extractor, source: str | None = None, revision: str | None = None
    ):
        self.model = freeze(model)
        self.feature_extractor = feature_extractor
        config = model.config
        # Samples under which less than two frames are left after the time-delay layers: no standard deviation then.
        frames = 2 + sum((k - 1) * d for k, d in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
        self.min_samples = frames
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.min_samples = (self.min_samples - 1) * stride + kernel
        self.description = {
            "encoder": type(model).__name__,
            "source": source or config.name_or_path,
            "revision": revision,
            "weights_sha256": weights_sha256(model),
        }

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike" = "microsoft/wavlm-base-plus-sv",
        revision: str = "main",
        device: "str | torch.device" = "cpu",
    ) -> "XVectorEncoder":
        """
        Loads a model by Hub id or folder. SIM-O of zero-shot TTS papers is mostly by a fine-tuned WavLM-large that is not
        in this format, so that its values do not compare with theirs.
        """
        model = load_frozen(AutoModelForAudioXVector, source, revision, device)
        extractor = AutoFeatureExtractor.from_pretrained(source, revision=revision)
        return cls(model, extractor, str(source), commit_of(source, revision))

    @torch.inference_mode()
    def __call__(self, waveform, sampling_rate: int) -> np.ndarray:
        """
        Args:
            waveform (array [T]): Samples, full scale ±1.
            sampling_rate (`int`): In Hz, must be 16000.

        Returns:
            `np.ndarray` [C]: The embedding, of length 1.

        Raises:
            ValueError: The waveform is not usable, is silent or is too short for the model, or the sampling rate is
                another.
        """
        if sampling_rate != SAMPLING_RATE:
            raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
        waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
        if waveform.size < self.min_samples:
            raise ValueError(f"`waveform` must have {self.min_samples} samples or more, got {waveform.size}")
        inputs = self.feature_extractor(waveform.astype(np.float32), sampling_rate=sampling_rate, return_tensors="pt")
        embedding = self.model(inputs.input_values.to(self.model.device)).embeddings[0].double().cpu().numpy()
        return embedding / np.linalg.norm(embedding)


def speaker_similarity(
    reference, degraded, sampling_rate: int, encoder: Callable[[np.ndarray, int], np.ndarray]
) -> float:
    """
    Cosine of the embeddings of two recordings. With the original prompt (not its reconstruction) as reference it is the
    SIM-O of zero-shot TTS (VALL-E, arXiv 2301.02111, and after); with a clip and its coded copy, how well a codec keeps
    the voice.

    Args:
        reference (array [T]): A recording of the speaker, full scale ±1.
        degraded (array [T2]): The signal under test; lengths may differ, and nothing has to be aligned.
        sampling_rate (`int`): In Hz, what the encoder wants.
        encoder (`Callable`): `(waveform, sampling_rate) -> [C]`, such as [`XVectorEncoder`] or
            [`~hf_affectcodec.metrics.ge2e.GE2EEncoder`].

    Returns:
        `float`: -1 to 1 (identical). Higher is better. See [`speaker_anchors`] for what other speakers get.

    Raises:
        ValueError: A waveform is not usable or is silent, the encoder refuses it, or has no embedding for it.
    """
    embeddings = []
    for name, waveform in (("reference", reference), ("degraded", degraded)):
        waveform = check_audible(check_waveform(waveform, name), name)
        try:
            embedding = np.asarray(encoder(waveform, sampling_rate), dtype=np.float64)
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}") from error
        norm = np.linalg.norm(embedding)
        if not np.isfinite(norm) or norm == 0:
            raise ValueError(f"`{name}`: the encoder gives no embedding for it (norm {norm})")
        embeddings.append(embedding / norm)
    return float(np.clip(embeddings[0] @ embeddings[1], -1, 1))


@dataclass(frozen=True)
class SpeakerAnchors:
    """
    Args:
        different_speakers (`float`): The floor: mean cosine of clips of different speakers.
        same_speaker (`float`): Mean cosine of different clips of one speaker, NaN where each speaker has one clip. A
            codec that loses nothing is above it, as it keeps the words and the microphone too; speech synthesised anew is
            not.
        same_clip (`float`): The ceiling, 1.
        auc (`float`): Probability that a pair of one speaker has a higher cosine than a pair of different speakers, ties
            counting half: 0.5 means that the encoder cannot tell these speakers apart. NaN as above.
        num_different, num_same (`int`): Pairs.
    """

    different_speakers: float
    same_speaker: float
    same_clip: float
    auc: float
    num_different: int
    num_same: int


def speaker_anchors(embeddings, speakers: Sequence) -> SpeakerAnchors:
    """
    What an encoder gives for original recordings, over all pairs of clips.

    Args:
        embeddings (array [N, C]): One a clip, any length.
        speakers (sequence [N]): Speaker of each clip.

    Returns:
        [`SpeakerAnchors`]

    Raises:
        ValueError: Shapes do not fit, an embedding is zero or not finite, or there is only one speaker.
    """
    embeddings = np.asarray(embeddings, dtype=np.float64)
    speakers = np.array([str(speaker) for speaker in speakers])
    if embeddings.ndim != 2 or len(embeddings) != len(speakers):
        raise ValueError(
            f"`embeddings` must be [{len(speakers)}, C], one a speaker's clip, got {list(embeddings.shape)}"
        )
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise ValueError("`embeddings` holds one that is zero or not finite")
    if len(set(speakers)) < 2:
        raise ValueError("`speakers` must name two speakers or more")
    unit = embeddings / norms
    rows, columns = np.triu_indices(len(unit), k=1)
    cosines = (unit @ unit.T)[rows, columns]
    same = speakers[rows] == speakers[columns]
    within, between = cosines[same], np.sort(cosines[~same])
    # For each pair of one speaker: how many of the others are below it, equals by half.
    below = (np.searchsorted(between, within, "left") + np.searchsorted(between, within, "right")) / 2
    return SpeakerAnchors(
        different_speakers=float(between.mean()),
        same_speaker=float(within.mean()) if within.size else np.nan,
        same_clip=1.0,
        auc=float(below.mean() / between.size) if within.size else np.nan,
        num_different=between.size,
        num_same=within.size,
    )
