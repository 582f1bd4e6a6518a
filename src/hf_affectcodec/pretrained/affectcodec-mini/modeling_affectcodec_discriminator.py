"""AffectCodec discriminators: multi-scale STFT, multi-period and multi-scale."""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_affectcodec_discriminator import AffectCodecDiscriminatorConfig


@dataclass
class AffectCodecDiscriminatorOutput(ModelOutput):
    r"""
    Args:
        logits (`tuple(torch.Tensor)`):
            One tensor for each discriminator, in the order STFT, period, scale; high where the input looks real.
            STFT: `(batch_size, 1, num_frames, num_bins)`. Period and scale: `(batch_size, num_positions)`.
        feature_maps (`tuple(tuple(torch.Tensor))`):
            For each discriminator the output of each layer after its activation: `(batch_size, channels, num_frames,
            num_bins)` (STFT), `(batch_size, channels, num_cycles, period)` (period), `(batch_size, channels,
            num_positions)` (scale). As in the public SpeechTokenizer code, period and scale discriminators end with
            the output layer, STFT discriminators with the layer before it.
    """

    logits: tuple[torch.Tensor, ...] | None = None
    feature_maps: tuple[tuple[torch.Tensor, ...], ...] | None = None


class AffectCodecDiscriminatorSpectralNorm(nn.Module):
    r"""
    Parametrization that divides a weight by its largest singular value, as in
    [Miyato et al., 2018](https://arxiv.org/abs/1802.05957): one power iteration per use in training mode.

    It differs from `torch.nn.utils.parametrizations.spectral_norm` in two ways that training here needs. It computes
    in the precision of the weight even under autocast, and it starts from the exact singular vector, not from a random
    one, so that applying it to a weight already normalised leaves that weight as it is, on every rank.

    Args:
        weight (`torch.Tensor` of shape `(out_channels, ...)`):
            The weight that will be normalised.
    """

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        matrix = weight.detach().flatten(1).double()
        self.register_buffer("left_singular_vector", torch.linalg.eigh(matrix @ matrix.T)[1][:, -1].to(weight.dtype))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                with torch.no_grad():
                    right_singular_vector = F.normalize(matrix.T @ self.left_singular_vector, dim=0)
                    self.left_singular_vector.copy_(F.normalize(matrix @ right_singular_vector, dim=0))
            # The copy keeps the backward valid when a second forward, or DDP, writes the buffer.
            return weight / torch.linalg.vector_norm(matrix.T @ self.left_singular_vector.clone())


class AffectCodecDiscriminatorSTFT(nn.Module):
    r"""
    Judges the complex spectrogram at one resolution (EnCodec, arXiv 2210.13438).

    Args:
        config ([`AffectCodecDiscriminatorConfig`]):
            Sizes of the layers.
        n_fft (`int`):
            FFT and window size in samples.
        hop_length (`int`):
            Hop in samples.
    """

    def __init__(self, config: AffectCodecDiscriminatorConfig, n_fft: int, hop_length: int):
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.negative_slope = config.stft_negative_slope
        filters = config.stft_filters
        kernel_size = tuple(config.stft_kernel_size)
        frame_pad, bin_pad = kernel_size[0] // 2, kernel_size[1] // 2

        # Real and imaginary part enter as two channels.
        self.convs = nn.ModuleList([nn.Conv2d(2, filters, kernel_size, padding=(frame_pad, bin_pad))])
        for dilation in config.stft_dilations:
            self.convs.append(
                nn.Conv2d(
                    filters,
                    filters,
                    kernel_size,
                    stride=tuple(config.stft_stride),
                    dilation=(dilation, 1),
                    padding=(frame_pad * dilation, bin_pad),
                )
            )
        self.convs.append(nn.Conv2d(filters, filters, (kernel_size[0], kernel_size[0]), padding=frame_pad))
        self.conv_post = nn.Conv2d(filters, 1, (kernel_size[0], kernel_size[0]), padding=frame_pad)

    def spectrogram(self, input_values: torch.Tensor) -> torch.Tensor:
        r"""
        Complex STFT, always in float32 or better: Hann window, no padding, divided by the norm of the window.

        Args:
            input_values (`torch.Tensor` of shape `(batch_size, 1, num_samples)`):
                Waveform.

        Returns:
            `torch.Tensor` of shape `(batch_size, 2, num_frames, n_fft // 2 + 1)`: real and imaginary part, in the
            channels-last memory format.
        """
        with torch.autocast(input_values.device.type, enabled=False):
            waveform = input_values.squeeze(1)
            waveform = waveform.to(torch.promote_types(waveform.dtype, torch.float32))
            # Not a buffer: a window that is not saved would be lost when `from_pretrained` builds on the meta device.
            window = torch.hann_window(self.n_fft, dtype=waveform.dtype, device=waveform.device)
            spectrogram = torch.stft(
                waveform, self.n_fft, self.hop_length, window=window, center=False, return_complex=True
            )
            spectrogram = torch.view_as_real(spectrogram) / torch.linalg.vector_norm(window)
        return spectrogram.permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)

    def forward(self, input_values: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        hidden_states = self.spectrogram(input_values).to(self.convs[0].weight.dtype)
        feature_maps = []
        for conv in self.convs:
            hidden_states = F.leaky_relu(conv(hidden_states), self.negative_slope)
            feature_maps.append(hidden_states)
        return self.conv_post(hidden_states), tuple(feature_maps)


class AffectCodecDiscriminatorPeriod(nn.Module):
    r"""
    Judges the waveform folded into rows of `period` samples (HiFi-GAN, arXiv 2010.05646).

    Args:
        config ([`AffectCodecDiscriminatorConfig`]):
            Sizes of the layers.
        period (`int`):
            Samples in a row.
    """

    def __init__(self, config: AffectCodecDiscriminatorConfig, period: int):
        super().__init__()
        self.period = period
        self.negative_slope = config.negative_slope
        kernel_size = config.period_kernel_size
        channels = (1, *config.period_channels)
        strides = (*(config.period_stride for _ in channels[2:]), 1)
        # 1-D over the samples of one phase: the same sums as the reference's (k, 1) kernels, a third faster on a CPU.
        self.convs = nn.ModuleList(
            nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
            for in_channels, out_channels, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.conv_post = nn.Conv1d(channels[-1], 1, 3, padding=1)

    def unfold(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch_size * period, channels, num_cycles)` to `(batch_size, channels, num_cycles, period)`, a view."""
        return hidden_states.unflatten(0, (-1, self.period)).permute(0, 2, 3, 1)

    def forward(self, input_values: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        hidden_states = F.pad(input_values, (0, -input_values.shape[-1] % self.period), mode="reflect")
        hidden_states = hidden_states.unflatten(-1, (-1, self.period)).permute(0, 3, 1, 2).flatten(0, 1)
        feature_maps = []
        for conv in self.convs:
            hidden_states = F.leaky_relu(conv(hidden_states), self.negative_slope)
            feature_maps.append(self.unfold(hidden_states))
        feature_maps.append(self.unfold(self.conv_post(hidden_states)))
        return feature_maps[-1].flatten(1), tuple(feature_maps)


class AffectCodecDiscriminatorScale(nn.Module):
    r"""
    Judges the waveform by grouped 1-D convolutions (MelGAN, arXiv 1910.06711).

    Args:
        config ([`AffectCodecDiscriminatorConfig`]):
            Sizes of the layers.
    """

    def __init__(self, config: AffectCodecDiscriminatorConfig):
        super().__init__()
        self.negative_slope = config.negative_slope
        channels = (1, *config.scale_channels)
        self.convs = nn.ModuleList(
            nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups)
            for in_channels, out_channels, kernel_size, stride, groups in zip(
                channels[:-1],
                channels[1:],
                config.scale_kernel_sizes,
                config.scale_strides,
                config.scale_groups,
                strict=True,
            )
        )
        self.conv_post = nn.Conv1d(channels[-1], 1, 3, padding=1)

    def forward(self, input_values: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        hidden_states = input_values
        feature_maps = []
        for conv in self.convs:
            hidden_states = F.leaky_relu(conv(hidden_states), self.negative_slope)
            feature_maps.append(hidden_states)
        hidden_states = self.conv_post(hidden_states)
        feature_maps.append(hidden_states)
        return hidden_states.flatten(1), tuple(feature_maps)


class AffectCodecDiscriminatorPreTrainedModel(PreTrainedModel):
    r"""Weight initialisation, and loading and saving, for the AffectCodec discriminators."""

    config: AffectCodecDiscriminatorConfig
    base_model_prefix = "discriminator"
    main_input_name = "input_values"
    input_modalities = "audio"

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            # PyTorch's own default, which the reference keeps.
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)


class AffectCodecDiscriminator(AffectCodecDiscriminatorPreTrainedModel):
    r"""
    The discriminators of AffectCodec (arXiv 2605.11098, appendix G.3): multi-scale STFT, multi-period and multi-scale,
    the same networks as in the public SpeechTokenizer code.

    Weights are stored as the effective ones, without weight norm. Training calls `apply_weight_norm()` after loading;
    `save_pretrained` folds the norms away. The reference's weights fit name by name; those of the period
    discriminators lose their last axis, which has one element.

    Args:
        config ([`AffectCodecDiscriminatorConfig`]):
            Families and their sizes.
    """

    def __init__(self, config: AffectCodecDiscriminatorConfig):
        super().__init__(config)
        self.stft_discriminators = nn.ModuleList(
            AffectCodecDiscriminatorSTFT(config, n_fft, hop_length)
            for n_fft, hop_length in zip(config.stft_n_ffts, config.stft_hop_lengths, strict=True)
        )
        self.period_discriminators = nn.ModuleList(
            AffectCodecDiscriminatorPeriod(config, period) for period in config.periods
        )
        self.scale_discriminators = nn.ModuleList(
            AffectCodecDiscriminatorScale(config) for _ in range(config.num_scales)
        )
        self.post_init()

    @can_return_tuple
    def forward(self, input_values: torch.Tensor, **kwargs) -> AffectCodecDiscriminatorOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, 1, num_samples)`):
                Waveforms of one length, real or decoded. No padding: it would be judged like the rest.
            return_dict (`bool`, *optional*):
                Whether to return an [`AffectCodecDiscriminatorOutput`] or a plain tuple.

        Returns:
            [`AffectCodecDiscriminatorOutput`]: logits and feature maps, one entry for each discriminator.

        Example:

        ```python
        >>> import torch
        >>> from hf_affectcodec.modeling.configuration_affectcodec_discriminator import AffectCodecDiscriminatorConfig
        >>> from hf_affectcodec.modeling.modeling_affectcodec_discriminator import AffectCodecDiscriminator

        >>> model = AffectCodecDiscriminator(AffectCodecDiscriminatorConfig(stft_n_ffts=(), num_scales=0))
        >>> outputs = model(torch.randn(1, 1, 16000))
        >>> len(outputs.logits), len(outputs.feature_maps[0])
        (5, 6)
        ```"""
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(
                f"`input_values` must have shape (batch_size, 1, num_samples), got {tuple(input_values.shape)}."
            )
        if input_values.shape[-1] < self.config.minimum_length:
            raise ValueError(
                f"`input_values` must hold at least {self.config.minimum_length} samples, "
                f"got {input_values.shape[-1]}."
            )
        outputs = [discriminator(input_values) for discriminator in self.stft_discriminators]
        outputs += [discriminator(input_values) for discriminator in self.period_discriminators]
        for index, discriminator in enumerate(self.scale_discriminators):
            if index > 0:
                input_values = F.avg_pool1d(input_values, kernel_size=4, stride=2, padding=2)
            outputs.append(discriminator(input_values))
        logits, feature_maps = zip(*outputs, strict=True)
        return AffectCodecDiscriminatorOutput(logits=logits, feature_maps=feature_maps)

    def apply_weight_norm(self):
        r"""
        Normalises the weights for training, as the reference does: spectral norm on the first scale discriminator,
        weight norm on every other convolution but the first of each STFT discriminator, which has none.

        Weight norm leaves the outputs as they are. Spectral norm divides by the largest singular value: on fresh
        weights it changes the first scale discriminator, on weights that were trained (and stored) under it, it
        changes nothing. Does nothing to a convolution that is already normalised.
        """
        spectral = {id(conv) for scale in self.scale_discriminators[:1] for conv in (*scale.convs, scale.conv_post)}
        plain = {id(stft.convs[0]) for stft in self.stft_discriminators}
        for module in list(self.modules()):
            if not isinstance(module, (nn.Conv1d, nn.Conv2d)) or id(module) in plain:
                continue
            if parametrize.is_parametrized(module, "weight"):
                continue
            if id(module) in spectral:
                normalization = AffectCodecDiscriminatorSpectralNorm(module.weight).train(module.training)
                parametrize.register_parametrization(module, "weight", normalization)
            else:
                weight_norm(module)

    def remove_weight_norm(self):
        r"""Makes the normalised weights plain ones, for storing. Keeps the outputs in evaluation mode."""
        for module in list(self.modules()):
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)

    def save_pretrained(self, save_directory, **kwargs):
        r"""
        Saves as [`~transformers.PreTrainedModel.save_pretrained`] does, always without weight norm: a checkpoint of
        normalised parts would load as missing keys, that is with random weights.
        """
        normed = {name: m for name, m in self.named_modules() if parametrize.is_parametrized(m, "weight")}
        if normed:
            if kwargs.get("state_dict") is not None:
                raise ValueError("`state_dict` must be left out, or `remove_weight_norm()` called first.")
            state_dict = {name: value for name, value in self.state_dict().items() if ".parametrizations." not in name}
            for name, module in normed.items():
                # A copy in evaluation mode, so that saving does not move the singular vectors.
                state_dict[f"{name}.weight"] = copy.deepcopy(module.parametrizations["weight"]).eval()().detach()
            kwargs["state_dict"] = state_dict
        super().save_pretrained(save_directory, **kwargs)


__all__ = [
    "AffectCodecDiscriminator",
    "AffectCodecDiscriminatorOutput",
    "AffectCodecDiscriminatorPreTrainedModel",
]
