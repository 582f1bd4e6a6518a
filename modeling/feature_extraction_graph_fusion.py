"""Feature extractor of graph fusion: waveforms, with the modalities that are computed without a model of the Hub."""

import numpy as np
import torch
from transformers import BatchFeature

from .feature_extraction_token_fusion import TokenFusionFeatureExtractor


F0_PADDING = 256


class GraphFusionFeatureExtractor(TokenFusionFeatureExtractor):
    r"""
    Turns mono waveforms into a zero-padded batch, with F0 tokens and openSMILE features where they are asked for. Sequences
    by encoders are the model's business.

    Args:
        feature_size (`int`, *optional*, defaults to 1): Channels; only mono is supported.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate that the model expects, in Hz.
        padding_value (`float`, *optional*, defaults to 0.0): Value of padded samples.
        hop_length (`int`, *optional*, defaults to 320): Samples a frame; clips are padded to a multiple of it.
        max_seconds (`float`, *optional*): Longer clips are cut to their beginning. `None`: nothing is cut.
        opensmile_feature_set (`str`, *optional*): `"eGeMAPSv02"` or `"ComParE_2016"`; `None`: no such modality.
        opensmile_level (`str`, *optional*, defaults to `"lld"`):
            `"lld"`, modality `"lld"`: low-level descriptors, a vector each 10 ms; `"functionals"`, modality `"functionals"`:
            a sequence of one vector.
        f0_model (`str`, *optional*):
            CREPE's size, `"full"` or `"tiny"`, for the modality `"f0"`: tokens 0 to 255 of the pitch, one each `hop_length`
            samples (`hf_affectcodec.data.f0_tokens`). `None`: no such modality. Needs 16 kHz and hf-affectcodec with `[ser]`.
        f0_unvoiced (`str`, *optional*, defaults to `"interpolate"`):
            What unvoiced frames become: `"interpolate"`, the pitch between their neighbours'; `"token"`, index 0.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        hop_length: int = 320,
        max_seconds: float | None = None,
        opensmile_feature_set: str | None = None,
        opensmile_level: str = "lld",
        f0_model: str | None = None,
        f0_unvoiced: str = "interpolate",
        **kwargs,
    ):
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            hop_length=hop_length,
            max_seconds=max_seconds,
            opensmile_feature_set=opensmile_feature_set,
            opensmile_level=opensmile_level,
            **kwargs,
        )
        if f0_model not in (None, "full", "tiny"):
            raise ValueError(f"`f0_model` must be None, 'full' or 'tiny', got {f0_model!r}")
        if f0_unvoiced not in ("interpolate", "token"):
            raise ValueError(f"`f0_unvoiced` must be 'interpolate' or 'token', got {f0_unvoiced!r}")
        self.f0_model = f0_model
        self.f0_unvoiced = f0_unvoiced

    def f0_tokens(self, waveform: np.ndarray) -> np.ndarray:
        """
        Tokens `[ceil(T / hop_length)]`, int64, of a waveform `[T]` at `sampling_rate`, in [-1, 1].

        Raises:
            ImportError: hf-affectcodec or its extra `[ser]` is missing.
        """
        try:
            from hf_affectcodec.data.f0_tokens import f0_to_tokens
            from hf_affectcodec.data.f0_tracking import crepe_f0
        except ImportError as error:
            raise ImportError(
                "F0 tokens need `hf-affectcodec` with CREPE: pip install 'hf-affectcodec[ser]'"
            ) from error
        frames = -(-len(waveform) // self.hop_length)
        f0, _ = crepe_f0(waveform, self.sampling_rate, self.hop_length, self.f0_model)
        return f0_to_tokens(f0[:frames], self.f0_unvoiced)

    def signal_features(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        """The modalities of one waveform `[T]` that this extractor computes, `[T']` or `[T', S]` each."""
        features = {}
        if self.opensmile_feature_set is not None:
            features[self.opensmile_level] = np.atleast_2d(self.opensmile_features(waveform))
        if self.f0_model is not None:
            features["f0"] = self.f0_tokens(waveform)
        return features

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
            [`BatchFeature`] with `input_values` `(batch, 1, samples)`, `padding_mask` `(batch, samples)` and, where modalities
            are asked for, `input_features` and `attention_mask`, a dictionary of tensors by modality each.

        Raises:
            ImportError: A modality is asked for and its package is missing.
            ValueError: naming the argument that is malformed.
        """
        batch = self.pad_waveforms(audio, sampling_rate, padding, truncation, max_length)
        clips = zip(batch["input_values"], batch["padding_mask"], strict=True)
        items = [self.signal_features(values[0, mask]) for values, mask in clips]
        if return_tensors is not None:
            batch = batch.convert_to_tensors(return_tensors)
        if items[0]:
            batch["input_features"], batch["attention_mask"] = {}, {}
        for modality in items[0]:
            values = [torch.tensor(item[modality]) for item in items]
            padding_value = F0_PADDING if modality == "f0" else 0
            lengths = torch.tensor([len(value) for value in values])
            batch["input_features"][modality] = torch.nn.utils.rnn.pad_sequence(values, True, padding_value)
            batch["attention_mask"][modality] = torch.arange(int(lengths.max())) < lengths[:, None]
        return batch


__all__ = ["GraphFusionFeatureExtractor"]
