"""SEANet encoder and decoder: convolutions at sample rate, LSTMs at frame rate (Tagliasacchi et al. 2020; arXiv 2605.11098)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .cache_affectcodec import AffectCodecCache


def mask_steps(hidden_states: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Zeroes hidden_states [B, C, T] from each item's length [B] on; `None` means that every step is valid."""
    if lengths is None:
        return hidden_states
    steps = torch.arange(hidden_states.shape[-1], device=hidden_states.device)
    return hidden_states * (steps < lengths[:, None])[:, None]


def _reflect_pad(hidden_states: torch.Tensor, left: int, right: int) -> torch.Tensor:
    # Reflection needs more steps than it adds; short inputs are first extended by zeros, which are cut again.
    missing = max(0, max(left, right) - hidden_states.shape[-1] + 1)
    padded = F.pad(F.pad(hidden_states, (0, missing)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - missing]


def elu(hidden_states: torch.Tensor) -> torch.Tensor:
    """ELU with alpha 1. Without gradients as max(x, exp(min(x, 0)) - 1): torch's own took a third of the encoder's time."""
    if torch.is_grad_enabled():
        return F.elu(hidden_states)
    return torch.maximum(hidden_states, hidden_states.clamp(max=0).exp_().sub_(1))


class AffectCodecConv1d(nn.Conv1d):
    """Convolution [B, C, T] -> [B, C', ceil(T / stride)] that looks at both sides, or (`causal`) back only."""

    def __init__(self, config, in_channels, out_channels, kernel_size, stride=1, dilation=1):
        total = (kernel_size - 1) * dilation - (stride - 1)
        self.left = total if config.causal else total - total // 2
        self.right = total - self.left
        self.reflect = config.pad_mode == "reflect"
        # torch pads both sides by `left`; the surplus on the right is cut below, or never reaches a full window.
        padding = 0 if self.reflect else self.left
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, padding=padding)

    def forward(
        self,
        hidden_states: torch.Tensor,
        lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        if self.kernel_size == (1,):
            return super().forward(hidden_states)
        if cache is not None:
            extended = cache.extend(self, hidden_states, self.left)
            return F.conv1d(extended, self.weight, self.bias, self.stride, 0, self.dilation)
        steps = -(-hidden_states.shape[-1] // self.stride[0])
        if self.reflect:
            extra = steps * self.stride[0] - hidden_states.shape[-1]
            return super().forward(_reflect_pad(hidden_states, self.left, self.right + extra))
        return super().forward(mask_steps(hidden_states, lengths))[..., :steps]


class AffectCodecConvTranspose1d(nn.ConvTranspose1d):
    """Transposed convolution [B, C, T] -> [B, C', T * stride] with kernel 2 * stride."""

    def __init__(self, config, in_channels, out_channels, stride):
        self.causal = config.causal
        left = 0 if config.causal else stride - stride // 2
        output_padding = 0 if config.causal else 2 * left - stride
        super().__init__(
            in_channels, out_channels, 2 * stride, stride=stride, padding=left, output_padding=output_padding
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        steps = hidden_states.shape[-1] * self.stride[0]
        if cache is not None:
            # Each input step reaches two strides, so the one before has a part in the first.
            extended = cache.extend(self, hidden_states, 1)
            outputs = F.conv_transpose1d(extended, self.weight, self.bias, self.stride)
            return outputs[..., self.stride[0] : self.stride[0] + steps]
        return super().forward(mask_steps(hidden_states, lengths))[..., :steps]


class AffectCodecResidualUnit(nn.Module):
    """ELU - conv - ELU - 1x1 conv, beside a 1x1 shortcut."""

    def __init__(self, config, dim: int, dilation: int):
        super().__init__()
        hidden = dim // config.compress
        self.conv1 = AffectCodecConv1d(config, dim, hidden, config.residual_kernel_size, dilation=dilation)
        self.conv2 = AffectCodecConv1d(config, hidden, dim, 1)
        self.shortcut = AffectCodecConv1d(config, dim, dim, 1)

    def forward(self, hidden_states, lengths=None, cache=None):
        residual = self.conv2(elu(self.conv1(elu(hidden_states), lengths, cache)))
        return self.shortcut(hidden_states) + residual


class AffectCodecLSTM(nn.Module):
    """LSTM over time with a skip connection, [B, C, T] -> [B, C, T], or 2C channels when bidirectional."""

    def __init__(self, config, dim: int, bidirectional: bool):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, config.num_lstm_layers, bidirectional=bidirectional, batch_first=True)

    def forward(self, hidden_states, lengths=None, cache=None):
        inputs = hidden_states.transpose(1, 2)
        if cache is not None:
            outputs = self._step(inputs, cache)
        elif lengths is None or not self.lstm.bidirectional:
            # A forward LSTM cannot see padding that comes after an item.
            outputs = self.lstm(inputs)[0]
        else:
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            outputs = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=inputs.shape[1])[0]
        if self.lstm.bidirectional:
            inputs = inputs.repeat(1, 1, 2)
        return (outputs + inputs).transpose(1, 2)

    def _step(self, inputs, cache):
        # The cache has items first, the LSTM its layers.
        before = cache.get(self)
        states = None if before is None else tuple(part.transpose(0, 1).contiguous() for part in before.unbind(1))
        outputs, after = self.lstm(inputs, states)
        cache.set(self, torch.stack([part.transpose(0, 1) for part in after], dim=1))
        return outputs


class AffectCodecSeanetEncoder(nn.Module):
    """Waveform [B, 1, T] -> latents [B, F, D], F = ceil(T / hop)."""

    def __init__(self, config):
        super().__init__()
        self.hop_length = config.hop_length
        self.pad_to_hop = config.pad_mode == "zero"
        dim = config.num_filters
        self.conv_in = AffectCodecConv1d(config, config.audio_channels, dim, config.kernel_size)
        self.residual_units = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        for ratio in config.downsampling_ratios:
            self.residual_units.append(
                nn.ModuleList(
                    AffectCodecResidualUnit(config, dim, config.dilation_growth_rate**j)
                    for j in range(config.num_residual_layers)
                )
            )
            self.downsamplers.append(AffectCodecConv1d(config, dim, 2 * dim, 2 * ratio, stride=ratio))
            dim *= 2
        self.lstm = AffectCodecLSTM(config, dim, bidirectional=not config.causal)
        self.conv_out = AffectCodecConv1d(
            config, dim if config.causal else 2 * dim, config.hidden_size, config.kernel_size
        )

    def forward(
        self,
        input_values: torch.Tensor,
        frame_lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        if self.pad_to_hop:
            # Whole frames from the start, so that every stage divides without a remainder.
            input_values = F.pad(input_values, (0, -input_values.shape[-1] % self.hop_length))
        lengths = None if frame_lengths is None else frame_lengths * self.hop_length
        hidden_states = self.conv_in(input_values.to(self.conv_in.weight.dtype), lengths, cache)
        for units, downsample in zip(self.residual_units, self.downsamplers, strict=True):
            for unit in units:
                hidden_states = unit(hidden_states, lengths, cache)
            hidden_states = downsample(elu(hidden_states), lengths, cache)
            lengths = None if lengths is None else lengths // downsample.stride[0]
        hidden_states = self.lstm(hidden_states, lengths, cache)
        return self.conv_out(elu(hidden_states), lengths, cache).transpose(1, 2)


class AffectCodecSeanetDecoder(nn.Module):
    """Latents [B, F, D] -> waveform [B, 1, F * hop]."""

    def __init__(self, config):
        super().__init__()
        dim = config.num_filters * 2 ** len(config.downsampling_ratios)
        self.conv_in = AffectCodecConv1d(config, config.hidden_size, dim, config.kernel_size)
        self.lstm = AffectCodecLSTM(config, dim, bidirectional=False)
        self.upsamplers = nn.ModuleList()
        self.residual_units = nn.ModuleList()
        for ratio in reversed(config.downsampling_ratios):
            self.upsamplers.append(AffectCodecConvTranspose1d(config, dim, dim // 2, ratio))
            dim //= 2
            self.residual_units.append(
                nn.ModuleList(
                    AffectCodecResidualUnit(config, dim, config.dilation_growth_rate**j)
                    for j in range(config.num_residual_layers)
                )
            )
        self.conv_out = AffectCodecConv1d(config, dim, config.audio_channels, config.kernel_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frame_lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        lengths = frame_lengths
        hidden_states = self.conv_in(hidden_states.transpose(1, 2), lengths, cache)
        hidden_states = self.lstm(hidden_states, lengths, cache)
        for upsample, units in zip(self.upsamplers, self.residual_units, strict=True):
            hidden_states = upsample(elu(hidden_states), lengths, cache)
            lengths = None if lengths is None else lengths * upsample.stride[0]
            for unit in units:
                hidden_states = unit(hidden_states, lengths, cache)
        return mask_steps(self.conv_out(elu(hidden_states), lengths, cache), lengths)


__all__ = ["AffectCodecSeanetDecoder", "AffectCodecSeanetEncoder", "mask_steps"]
