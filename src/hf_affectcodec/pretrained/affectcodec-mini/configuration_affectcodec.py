"""AffectCodec model configuration."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


BACKBONES = ("seanet", "istft")
GUIDANCE_ATTENTIONS = ("cross", "self", "none")
GUIDANCE_ORDERS = ("before", "after")
GUIDANCE_SOURCES = ("emotion", "semantic")
PAD_MODES = ("zero", "reflect")


@strict
class AffectCodecConfig(PreTrainedConfig):
    r"""
    Configuration of an [`AffectCodecModel`]. The defaults are the configuration of the paper (arXiv 2605.11098, App. G):
    16 kHz, 50 Hz, 8 codebooks of 1024 entries, 4 kbps, 44.1 M trainable parameters.

    Args:
        backbone (`str`, *optional*, defaults to `"seanet"`):
            `"seanet"` is the paper's encoder and decoder (convolutions and LSTMs at sample rate). `"istft"` works at frame
            rate (log-mel, ConvNeXt blocks, inverse STFT) and costs about a tenth.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate of the waveform in Hz.
        audio_channels (`int`, *optional*, defaults to 1): Channels of the waveform. Only mono is supported.
        hidden_size (`int`, *optional*, defaults to 1024): Width D of the latents [B, F, D].
        causal (`bool`, *optional*, defaults to `False`):
            Convolutions and guidance look back only and the encoder's LSTM runs forward only. The `istft` decoder still
            overlaps with `(istft_n_fft - hop_length) / 2` samples to come.
        downsampling_ratios (`tuple[int]`, *optional*, defaults to `(2, 4, 5, 8)`):
            Strides of the encoder; their product is the hop length in samples.
        num_filters (`int`, *optional*, defaults to 32): `seanet`: channels after the first convolution.
        kernel_size (`int`, *optional*, defaults to 7): `seanet`: kernel of the first and the last convolution.
        residual_kernel_size (`int`, *optional*, defaults to 3): `seanet`: kernel of the residual units.
        num_residual_layers (`int`, *optional*, defaults to 1): `seanet`: residual units per stage.
        dilation_growth_rate (`int`, *optional*, defaults to 2): `seanet`: unit `j` has dilation `rate ** j`.
        compress (`int`, *optional*, defaults to 2): `seanet`: residual units work at `1 / compress` of the width.
        num_lstm_layers (`int`, *optional*, defaults to 2): `seanet`: LSTM layers of the encoder and of the decoder.
        pad_mode (`str`, *optional*, defaults to `"zero"`):
            `seanet`: `"zero"` makes a padded batch equal to its items; `"reflect"` is for parity with public checkpoints.
        mel_n_ffts (`tuple[int]`, *optional*, defaults to `(1024, 320)`): `istft`: FFT sizes of the log-mel inputs.
        mel_hop_lengths (`tuple[int]`, *optional*, defaults to `(320, 80)`):
            `istft`: their hops in samples; each divides the hop length, and the frames of one hop are stacked.
        mel_bins (`tuple[int]`, *optional*, defaults to `(100, 40)`): `istft`: their numbers of mel bins.
        convnext_kernel_size (`int`, *optional*, defaults to 7): `istft`: kernel of the depthwise convolutions.
        intermediate_size (`int`, *optional*, defaults to 1152): `istft`: width of the ConvNeXt feed-forward layers.
        num_encoder_layers (`int`, *optional*, defaults to 6): `istft`: ConvNeXt blocks of the encoder.
        num_decoder_layers (`int`, *optional*, defaults to 8): `istft`: ConvNeXt blocks of the decoder.
        istft_n_fft (`int`, *optional*, defaults to 1280): `istft`: window of the inverse STFT in samples.
        codebook_size (`int`, *optional*, defaults to 1024): Entries of each codebook.
        codebook_dim (`int`, *optional*): Width of the codebook vectors; `None` means `hidden_size`, without projections.
        num_quantizers (`int`, *optional*, defaults to 8): Number of residual codebooks.
        codebook_decay (`float`, *optional*, defaults to 0.99): Decay of the moving averages behind the codebooks.
        codebook_epsilon (`float`, *optional*, defaults to 1e-5): Laplace smoothing of the usage counts.
        kmeans_iterations (`int`, *optional*, defaults to 10): Iterations of the k-means start.
        dead_code_ratio (`float`, *optional*, defaults to 0.1):
            A code used less than this share of uniform use is replaced by a vector of the batch. A ratio, so that it
            does not depend on the batch size.
        quantizer_dropout (`float`, *optional*, defaults to 0.0):
            Share of training items that use a random smaller number of codebooks.
        guidance_sources (`tuple[str]`, *optional*, defaults to `("emotion", "semantic")`):
            Feature streams of EG-Latent (section 3.2.1); empty switches the guidance off.
        guidance_attention (`str`, *optional*, defaults to `"cross"`): `"cross"`, `"self"` or `"none"` (Table 6).
        guidance_order (`str`, *optional*, defaults to `"before"`):
            Attention before or after the back-projection W_m (Table 6).
        guidance_num_heads (`int`, *optional*, defaults to 8): Attention heads.
        guidance_dropout (`float`, *optional*, defaults to 0.1): Probability that a channel of a guidance term is zeroed.
        guidance_term_dropout (`float`, *optional*, defaults to 0.1):
            Probability that a whole guidance term is zeroed, which trains encoding without features.
        emotion_feature_size (`int`, *optional*, defaults to 768): Width of the emotion teacher's frame features.
        semantic_feature_size (`int`, *optional*, defaults to 768): Width of the semantic teacher's frame features.
        self_guidance (`bool`, *optional*, defaults to `False`):
            Predict the guidance features from the acoustic latents, so that encoding needs no teacher (ours, not the
            paper's).
        self_guidance_hidden_size (`int`, *optional*, defaults to 384): Width of the self-guidance heads.
        alignment_feature_size (`int`, *optional*, defaults to 768):
            Width of the text teacher's features; the head Linear(hidden_size, this) serves EW-Align. `None`: no head.
        distillation_num_quantizers (`int`, *optional*, defaults to 1):
            The distillation latents are the mean of the first n quantizers' outputs (Table 9: 1, 4 or 8).
        feature_distillation_sources (`tuple[str]`, *optional*, defaults to `()`):
            Teachers that linear heads on the distillation latents predict, `"emotion"` and / or `"semantic"`, each to its
            width: feature distillation, which the paper compares its relational distillation with (Table 7).
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the linear layers' initial weights.

    Example:

    ```python
    >>> from hf_affectcodec import AffectCodecConfig, AffectCodecModel

    >>> configuration = AffectCodecConfig()
    >>> model = AffectCodecModel(configuration)
    >>> configuration.bitrate
    4000.0
    ```"""

    model_type = "affectcodec"

    backbone: str = "seanet"
    sampling_rate: int = 16000
    audio_channels: int = 1
    hidden_size: int = 1024
    causal: bool = False

    downsampling_ratios: list[int] | tuple[int, ...] = (2, 4, 5, 8)
    num_filters: int = 32
    kernel_size: int = 7
    residual_kernel_size: int = 3
    num_residual_layers: int = 1
    dilation_growth_rate: int = 2
    compress: int = 2
    num_lstm_layers: int = 2
    pad_mode: str = "zero"

    mel_n_ffts: list[int] | tuple[int, ...] = (1024, 320)
    mel_hop_lengths: list[int] | tuple[int, ...] = (320, 80)
    mel_bins: list[int] | tuple[int, ...] = (100, 40)
    convnext_kernel_size: int = 7
    intermediate_size: int = 1152
    num_encoder_layers: int = 6
    num_decoder_layers: int = 8
    istft_n_fft: int = 1280

    codebook_size: int = 1024
    codebook_dim: int | None = None
    num_quantizers: int = 8
    codebook_decay: float = 0.99
    codebook_epsilon: float = 1e-5
    kmeans_iterations: int = 10
    dead_code_ratio: float = 0.1
    quantizer_dropout: float = 0.0

    guidance_sources: list[str] | tuple[str, ...] = ("emotion", "semantic")
    guidance_attention: str = "cross"
    guidance_order: str = "before"
    guidance_num_heads: int = 8
    guidance_dropout: float = 0.1
    guidance_term_dropout: float = 0.1
    emotion_feature_size: int = 768
    semantic_feature_size: int = 768
    self_guidance: bool = False
    self_guidance_hidden_size: int = 384

    alignment_feature_size: int | None = 768
    distillation_num_quantizers: int = 1
    feature_distillation_sources: list[str] | tuple[str, ...] = ()

    initializer_range: float = 0.02

    def validate_architecture(self):
        for name, allowed in (
            ("backbone", BACKBONES),
            ("guidance_attention", GUIDANCE_ATTENTIONS),
            ("guidance_order", GUIDANCE_ORDERS),
            ("pad_mode", PAD_MODES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}")
        for name, sources in (
            ("guidance_sources", self.guidance_sources),
            ("feature_distillation_sources", self.feature_distillation_sources),
        ):
            unknown = [s for s in sources if s not in GUIDANCE_SOURCES]
            if unknown:
                raise ValueError(f"`{name}` must be taken from {GUIDANCE_SOURCES}, got {unknown}")
        if self.self_guidance and not self.guidance_sources:
            raise ValueError("`self_guidance` needs at least one entry in `guidance_sources`")
        if self.guidance_sources and self.hidden_size % self.guidance_num_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be divisible by `guidance_num_heads` ({self.guidance_num_heads})"
            )
        if self.audio_channels != 1:
            raise ValueError(f"`audio_channels` must be 1, got {self.audio_channels}")
        if not 1 <= self.distillation_num_quantizers <= self.num_quantizers:
            raise ValueError(f"`distillation_num_quantizers` must lie in 1..{self.num_quantizers}")
        if not len(self.mel_n_ffts) == len(self.mel_hop_lengths) == len(self.mel_bins):
            raise ValueError("`mel_n_ffts`, `mel_hop_lengths` and `mel_bins` must have the same length")
        if self.istft_n_fft < self.hop_length:
            raise ValueError(
                f"`istft_n_fft` must be at least the hop length {self.hop_length}, got {self.istft_n_fft}"
            )
        if any(n_fft < hop for n_fft, hop in zip(self.mel_n_ffts, self.mel_hop_lengths, strict=True)):
            raise ValueError("`mel_n_ffts` must not be smaller than their `mel_hop_lengths`")
        if self.quantizer_dropout and self.num_quantizers < 2:
            raise ValueError("`quantizer_dropout` needs `num_quantizers` of 2 or more")
        for hop in self.mel_hop_lengths:
            if self.hop_length % hop:
                raise ValueError(f"`mel_hop_lengths` must divide the hop length {self.hop_length}, got {hop}")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.downsampling_ratios)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.hop_length

    @property
    def codebook_nbits(self) -> int:
        """Bits per code."""
        return math.ceil(math.log2(self.codebook_size))

    @property
    def bitrate(self) -> float:
        """Bits per second with all quantizers."""
        return self.frame_rate * self.num_quantizers * self.codebook_nbits


__all__ = ["AffectCodecConfig"]
