"""Feature extractor of token fusion: waveforms with openSMILE features, and batches of ready tokens."""

import functools

import numpy as np
import torch
from transformers import BatchFeature

from .feature_extraction_affectcodec import AffectCodecFeatureExtractor


OPENSMILE_FEATURE_SETS = ("eGeMAPSv02", "ComParE_2016")
_SHORTEST = 0.1  # s; openSMILE gives nothing for less than its longest window (0.06 s) and some smoothing
_SEQUENCES = ("input_ids", "input_features")


class TokenFusionFeatureExtractor(AffectCodecFeatureExtractor):
    r"""
    Turns mono waveforms into a zero-padded batch, with openSMILE features where `opensmile_feature_set` asks for them. The
    model makes the tokens itself; those made beforehand are batched by [`~TokenFusionFeatureExtractor.pad_tokens`].

    openSMILE is free for research and private use only; its package is needed only here.

    Args:
        feature_size (`int`, *optional*, defaults to 1): Channels; only mono is supported.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate that the model expects, in Hz.
        padding_value (`float`, *optional*, defaults to 0.0): Value of padded samples.
        hop_length (`int`, *optional*, defaults to 320): Shortest clip in samples; clips are padded to a multiple of it.
        max_seconds (`float`, *optional*, defaults to 30.0):
            Longer clips are cut to their beginning (30 s is what Whisper's encoder sees). `None`: nothing is cut.
        opensmile_feature_set (`str`, *optional*): `"eGeMAPSv02"` or `"ComParE_2016"`; `None`: no such features.
        opensmile_level (`str`, *optional*, defaults to `"functionals"`): `"functionals"` or `"lld"`.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        hop_length: int = 320,
        max_seconds: float | None = 30.0,
        opensmile_feature_set: str | None = None,
        opensmile_level: str = "functionals",
        **kwargs,
    ):
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            hop_length=hop_length,
            **kwargs,
        )
        if opensmile_feature_set is not None and opensmile_feature_set not in OPENSMILE_FEATURE_SETS:
            raise ValueError(
                f"`opensmile_feature_set` must be None or one of {OPENSMILE_FEATURE_SETS}, got {opensmile_feature_set!r}"
            )
        if opensmile_level not in ("functionals", "lld"):
            raise ValueError(f"`opensmile_level` must be 'functionals' or 'lld', got {opensmile_level!r}")
        self.max_seconds = max_seconds
        self.opensmile_feature_set = opensmile_feature_set
        self.opensmile_level = opensmile_level

    def opensmile_features(self, waveform: np.ndarray) -> np.ndarray:
        """
        Args:
            waveform (`np.ndarray` `[T]`): At `sampling_rate`, in [-1, 1]. One under 0.1 s is padded with silence.

        Returns:
            `np.ndarray` float32: Functionals `[S]` or descriptors `[T', S]`, in openSMILE's order and units.

        Raises:
            ImportError: The package `opensmile` is missing.
            ValueError: A feature of this clip is not finite, or no feature set was asked for.
        """
        if self.opensmile_feature_set is None:
            raise ValueError("`opensmile_feature_set` is None: this extractor computes no openSMILE features")
        smile = _smile(self.opensmile_feature_set, self.opensmile_level)
        shortest = round(_SHORTEST * self.sampling_rate)
        padded = np.pad(waveform, (0, max(0, shortest - len(waveform))))
        table = smile.process_signal(padded.astype(np.float32), self.sampling_rate)
        features = table.to_numpy(dtype=np.float32)
        if not np.isfinite(features).all():
            name = smile.feature_names[int(np.argwhere(~np.isfinite(features))[0, 1])]
            raise ValueError(f"`audio`: the openSMILE feature {name} of this clip is not finite")
        return features[0] if self.opensmile_level == "functionals" else features

    def __call__(
        self,
        audio,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        r"""
        Arguments as of [`AffectCodecFeatureExtractor`].

        Returns:
            [`BatchFeature`] with `input_values` `(batch, 1, samples)`, `padding_mask` `(batch, samples)` and, where asked
            for, `opensmile_features` (functionals: `(batch, S)`; descriptors: `(batch, T', S)`, zero-padded, with
            `opensmile_attention_mask`).

        Raises:
            ImportError: openSMILE features are asked for and the package `opensmile` is missing.
            ValueError: naming the argument that is malformed.
        """
        batch = self.pad_waveforms(audio, sampling_rate, padding, truncation, max_length)
        if self.opensmile_feature_set is not None:
            clips = zip(batch["input_values"], batch["padding_mask"], strict=True)
            features = [self.opensmile_features(values[0, mask]) for values, mask in clips]
            if self.opensmile_level == "lld":
                features, batch["opensmile_attention_mask"] = _pad(features)
            batch["opensmile_features"] = list(features)
        return batch.convert_to_tensors(return_tensors) if return_tensors is not None else batch

    def pad_waveforms(self, audio, sampling_rate, padding=True, truncation=False, max_length=None) -> BatchFeature:
        """`input_values` and `padding_mask`, cut at `max_seconds`; arguments as of [`AffectCodecFeatureExtractor`]."""
        if max_length is None and self.max_seconds is not None and padding != "max_length":
            frames = round(self.max_seconds * self.sampling_rate) // self.hop_length
            truncation, max_length = True, frames * self.hop_length
        return super().__call__(audio, sampling_rate, padding, truncation, max_length)

    def pad_tokens(self, items: list[dict]) -> BatchFeature:
        """
        Batches clips whose tokens (or continuous features) were made beforehand.

        Args:
            items (`list[dict]`): Each with `input_ids` `[T, L]` or `input_features` `[T, L, D]`, and optionally
                `opensmile_features` `[S]` or `[T', S]` and `labels` (an integer); arrays or tensors, all with the same keys.

        Returns:
            [`BatchFeature`] of tensors, the arguments of [`TokenFusionForAudioClassification`].

        Raises:
            ValueError: There is no item, an item has no frame, or keys differ.
        """
        if not items or any(item.keys() != items[0].keys() for item in items):
            raise ValueError("`items` must be dictionaries, at least one, with the same keys")
        columns = {key: [np.asarray(item[key]) for item in items] for key in items[0]}
        sequences = [key for key in _SEQUENCES if key in columns]
        if len(sequences) != 1 or not columns.keys() <= {*_SEQUENCES, "opensmile_features", "labels"}:
            raise ValueError(f"`items` must have `input_ids` or `input_features`, got {sorted(columns)}")
        batch = {}
        batch[sequences[0]], batch["attention_mask"] = _pad(columns[sequences[0]])
        if "opensmile_features" in columns:
            if columns["opensmile_features"][0].ndim == 2:
                batch["opensmile_features"], batch["opensmile_attention_mask"] = _pad(columns["opensmile_features"])
            else:
                batch["opensmile_features"] = np.stack(columns["opensmile_features"])
        if "labels" in columns:
            batch["labels"] = np.stack(columns["labels"])
        return BatchFeature({key: torch.from_numpy(value) for key, value in batch.items()})


@functools.cache
def _smile(feature_set: str, level: str):
    try:
        import opensmile
    except ImportError as error:
        raise ImportError("openSMILE features need `opensmile`: pip install 'hf-affectcodec[ser]'") from error
    levels = {"functionals": opensmile.FeatureLevel.Functionals, "lld": opensmile.FeatureLevel.LowLevelDescriptors}
    return opensmile.Smile(opensmile.FeatureSet[feature_set], levels[level])


def _pad(items: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Arrays [T, ...] -> zero-padded [B, T, ...] and the mask [B, T]."""
    lengths = [len(item) for item in items]
    if min(lengths) == 0:
        raise ValueError("`items`: an item has no frame")
    padded = np.zeros((len(items), max(lengths), *items[0].shape[1:]), items[0].dtype)
    for row, item in zip(padded, items, strict=True):
        row[: len(item)] = item
    return padded, np.arange(max(lengths)) < np.array(lengths)[:, None]


__all__ = ["TokenFusionFeatureExtractor"]
