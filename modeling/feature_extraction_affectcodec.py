"""Feature extractor of AffectCodec: waveforms to padded `input_values`."""

import numbers

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor


class AffectCodecFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Turns mono waveforms into a zero-padded batch.

    Args:
        feature_size (`int`, *optional*, defaults to 1): Channels; only mono is supported.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate that the model expects, in Hz.
        padding_value (`float`, *optional*, defaults to 0.0): Value of padded samples.
        hop_length (`int`, *optional*, defaults to 320): Samples per frame; clips are padded to a multiple of it.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        hop_length: int = 320,
        **kwargs,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length

    def _waveform(self, audio, name: str) -> np.ndarray:
        if isinstance(audio, torch.Tensor):
            audio = audio.detach().cpu()
            values = (audio.float() if audio.dtype == torch.bfloat16 else audio).numpy()
        else:
            try:
                values = np.asarray(audio)
            except ValueError as error:  # rows of unequal length
                raise ValueError(f"`{name}` must be mono, of shape (samples,) or (1, samples)") from error
        if values.ndim == 2 and values.shape[0] == 1:
            values = values[0]
        if values.ndim != 1:
            raise ValueError(f"`{name}` must be mono, of shape (samples,) or (1, samples), got shape {values.shape}")
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(
                f"`{name}` must be floating point in [-1, 1], got {values.dtype}; divide 16-bit samples by 32768 first"
            )
        if len(values) < self.hop_length:
            raise ValueError(f"`{name}` has {len(values)} samples, fewer than one frame ({self.hop_length})")
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"`{name}` holds NaN or infinite samples")
        return values

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
        Args:
            audio (`np.ndarray`, `torch.Tensor`, `list[float]`, or a list of these):
                One waveform of shape `(samples,)` or `(1, samples)`, or a list of them; floating point in [-1, 1].
            sampling_rate (`int`): Rate of `audio` in Hz; must be given, and equal the extractor's.
            padding (`bool` or `str`, *optional*, defaults to `True`):
                `True` / `"longest"`, `"max_length"`, or `False`.
            truncation (`bool`, *optional*, defaults to `False`): Cut clips at `max_length`.
            max_length (`int`, *optional*): In samples.
            return_tensors (`str`, *optional*): `"pt"`, `"np"` or `None`.

        Returns:
            [`BatchFeature`] with `input_values` `(batch, 1, samples)` and `padding_mask` `(batch, samples)`, 1 at samples.

        Raises:
            ValueError: naming the argument that is malformed.
        """
        if sampling_rate is None:
            raise ValueError("`sampling_rate` is required: the rate of `audio` in Hz (another rate gives wrong codes)")
        if sampling_rate != self.sampling_rate:
            raise ValueError(f"`sampling_rate` must be {self.sampling_rate} Hz, got {sampling_rate!r}; resample first")
        is_batch = isinstance(audio, (list, tuple)) and not (
            len(audio) > 0 and all(isinstance(sample, numbers.Number) for sample in audio)
        )
        clips = list(audio) if is_batch else [audio]
        if not clips:
            raise ValueError("`audio` is empty")
        waveforms = [
            self._waveform(clip, f"audio[{index}]" if is_batch else "audio") for index, clip in enumerate(clips)
        ]
        padded = self.pad(
            BatchFeature({"input_values": waveforms}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=self.hop_length if padding else None,
            return_attention_mask=True,
        )
        batch = BatchFeature(
            {
                "input_values": [np.asarray(values, dtype=np.float32)[None] for values in padded["input_values"]],
                "padding_mask": [np.asarray(mask, dtype=bool) for mask in padded["attention_mask"]],
            }
        )
        return batch.convert_to_tensors(return_tensors) if return_tensors is not None else batch


__all__ = ["AffectCodecFeatureExtractor"]
