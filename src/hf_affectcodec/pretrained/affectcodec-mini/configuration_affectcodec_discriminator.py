"""AffectCodec discriminator configuration."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class AffectCodecDiscriminatorConfig(PreTrainedConfig):
    r"""
    Configuration of [`AffectCodecDiscriminator`], the three families of discriminators that AffectCodec
    (arXiv 2605.11098, appendix G.3) is trained against. The defaults are the sizes of the public SpeechTokenizer
    discriminators, which the paper takes over. A family is left out by an empty `stft_n_ffts`, an empty `periods`
    or `num_scales=0`.

    Args:
        sampling_rate (`int`, *optional*, defaults to 16000):
            Sampling rate of the audio that is judged, in Hz. Information only: no layer depends on it.
        stft_filters (`int`, *optional*, defaults to 32):
            Channels of every layer of the multi-scale STFT discriminators.
        stft_n_ffts (`tuple[int]`, *optional*, defaults to `(1024, 2048, 512, 256, 128)`):
            FFT and window size in samples, one STFT discriminator each.
        stft_hop_lengths (`tuple[int]`, *optional*):
            Hop in samples, one per entry of `stft_n_ffts`. Defaults to a quarter of each window.
        stft_kernel_size (`tuple[int]`, *optional*, defaults to `(3, 9)`):
            Kernel (frames, frequency bins) of the inner layers. The last two layers use the first number for both.
        stft_stride (`tuple[int]`, *optional*, defaults to `(1, 2)`):
            Stride (frames, frequency bins) of the dilated layers.
        stft_dilations (`tuple[int]`, *optional*, defaults to `(1, 2, 4)`):
            Dilation over frames, one dilated layer each.
        stft_negative_slope (`float`, *optional*, defaults to 0.2):
            Negative slope of the leaky ReLU in the STFT discriminators.
        periods (`tuple[int]`, *optional*, defaults to `(2, 3, 5, 7, 11)`):
            Periods in samples, one multi-period discriminator each.
        period_channels (`tuple[int]`, *optional*, defaults to `(32, 128, 512, 1024, 1024)`):
            Output channels of each layer of a period discriminator.
        period_kernel_size (`int`, *optional*, defaults to 5):
            Kernel along time of each layer of a period discriminator. The output layer uses 3.
        period_stride (`int`, *optional*, defaults to 3):
            Stride along time of every layer of a period discriminator but the last, which has stride 1.
        num_scales (`int`, *optional*, defaults to 3):
            Number of multi-scale discriminators. Each but the first sees the audio at half the rate of the one before.
        scale_channels (`tuple[int]`, *optional*, defaults to `(128, 128, 256, 512, 1024, 1024, 1024)`):
            Output channels of each layer of a scale discriminator.
        scale_kernel_sizes (`tuple[int]`, *optional*, defaults to `(15, 41, 41, 41, 41, 41, 5)`):
            Kernel size of each layer of a scale discriminator. The output layer uses 3.
        scale_strides (`tuple[int]`, *optional*, defaults to `(1, 2, 2, 4, 4, 1, 1)`):
            Stride of each layer of a scale discriminator.
        scale_groups (`tuple[int]`, *optional*, defaults to `(1, 4, 16, 16, 16, 16, 1)`):
            Groups of each layer of a scale discriminator.
        negative_slope (`float`, *optional*, defaults to 0.1):
            Negative slope of the leaky ReLU in the period and scale discriminators.

    Example:

    ```python
    >>> from hf_affectcodec.modeling.configuration_affectcodec_discriminator import AffectCodecDiscriminatorConfig
    >>> from hf_affectcodec.modeling.modeling_affectcodec_discriminator import AffectCodecDiscriminator

    >>> # Only the multi-period discriminators, with an eighth of the channels
    >>> config = AffectCodecDiscriminatorConfig(
    ...     stft_n_ffts=(), num_scales=0, period_channels=(4, 16, 64, 128, 128)
    ... )
    >>> model = AffectCodecDiscriminator(config)
    ```"""

    model_type = "affectcodec_discriminator"

    sampling_rate: int = 16_000
    stft_filters: int = 32
    stft_n_ffts: list[int] | tuple[int, ...] = (1024, 2048, 512, 256, 128)
    stft_hop_lengths: list[int] | tuple[int, ...] | None = None
    stft_kernel_size: list[int] | tuple[int, ...] = (3, 9)
    stft_stride: list[int] | tuple[int, ...] = (1, 2)
    stft_dilations: list[int] | tuple[int, ...] = (1, 2, 4)
    stft_negative_slope: float = 0.2
    periods: list[int] | tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: list[int] | tuple[int, ...] = (32, 128, 512, 1024, 1024)
    period_kernel_size: int = 5
    period_stride: int = 3
    num_scales: int = 3
    scale_channels: list[int] | tuple[int, ...] = (128, 128, 256, 512, 1024, 1024, 1024)
    scale_kernel_sizes: list[int] | tuple[int, ...] = (15, 41, 41, 41, 41, 41, 5)
    scale_strides: list[int] | tuple[int, ...] = (1, 2, 2, 4, 4, 1, 1)
    scale_groups: list[int] | tuple[int, ...] = (1, 4, 16, 16, 16, 16, 1)
    negative_slope: float = 0.1

    def __post_init__(self, **kwargs):
        if self.stft_hop_lengths is None:
            self.stft_hop_lengths = [n_fft // 4 for n_fft in self.stft_n_ffts]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the validation that `@strict` runs."""
        if self.num_scales < 0:
            raise ValueError(f"`num_scales` must be 0 or more, got {self.num_scales}.")
        if not self.stft_n_ffts and not self.periods and not self.num_scales:
            raise ValueError("One of `stft_n_ffts`, `periods` and `num_scales` must not be empty.")
        if len(self.stft_hop_lengths) != len(self.stft_n_ffts):
            raise ValueError(
                f"`stft_hop_lengths` must hold one hop for each of the {len(self.stft_n_ffts)} `stft_n_ffts`, "
                f"got {len(self.stft_hop_lengths)}."
            )
        for name in ("stft_n_ffts", "stft_hop_lengths", "periods"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"`{name}` must hold positive integers, got {getattr(self, name)}.")
        for name in ("stft_kernel_size", "stft_stride"):
            if len(getattr(self, name)) != 2:
                raise ValueError(f"`{name}` must be two integers (frames, bins), got {getattr(self, name)}.")
        if any(kernel_size % 2 == 0 for kernel_size in self.stft_kernel_size):
            raise ValueError(f"`stft_kernel_size` must hold odd integers, got {self.stft_kernel_size}.")
        if self.period_kernel_size % 2 == 0:
            raise ValueError(f"`period_kernel_size` must be odd, got {self.period_kernel_size}.")
        if any(kernel_size % 2 == 0 for kernel_size in self.scale_kernel_sizes):
            raise ValueError(f"`scale_kernel_sizes` must hold odd integers, got {self.scale_kernel_sizes}.")
        if self.periods and not self.period_channels:
            raise ValueError("`period_channels` must not be empty where `periods` is not.")
        if self.num_scales and not self.scale_channels:
            raise ValueError("`scale_channels` must not be empty where `num_scales` is not 0.")
        for name in ("scale_kernel_sizes", "scale_strides", "scale_groups"):
            if len(getattr(self, name)) != len(self.scale_channels):
                raise ValueError(
                    f"`{name}` must hold one integer for each of the {len(self.scale_channels)} `scale_channels`, "
                    f"got {len(getattr(self, name))}."
                )
        for in_channels, out_channels, groups in zip(
            (1, *self.scale_channels[:-1]), self.scale_channels, self.scale_groups, strict=True
        ):
            if in_channels % groups or out_channels % groups:
                raise ValueError(
                    f"`scale_groups` must divide the channels on both sides of its layer, got {groups} groups "
                    f"between {in_channels} and {out_channels} channels."
                )

    @property
    def minimum_length(self) -> int:
        """Fewest samples that every discriminator can judge: one STFT window, and one reflection of each period."""
        return max((*self.stft_n_ffts, *self.periods, 1))


__all__ = ["AffectCodecDiscriminatorConfig"]
