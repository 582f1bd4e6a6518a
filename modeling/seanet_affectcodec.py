"""SEANet encoder and decoder: convolutions at sample rate, LSTMs at frame rate (Tagliasacchi et al. 2020; arXiv 2605.11098)."""

import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .cache_affectcodec import AffectCodecCache
from .layers_affectcodec import MIN_ROWS, conv_steps, elu, is_plain_cpu
from .long_affectcodec import windows


# At a time, on CPUs: two seconds.
WINDOW_FRAMES = 100


def mask_steps(hidden_states: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Zeroes hidden_states [B, T, C] from each item's length [B] on; `None` means that every step is valid."""
    if lengths is None:
        return hidden_states
    steps = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    return hidden_states * (steps < lengths[:, None])[..., None]


def _reflect_pad(hidden_states: torch.Tensor, left: int, right: int) -> torch.Tensor:
    # Reflection needs more steps than it adds; short inputs are first extended by zeros, which are cut again.
    missing = max(0, max(left, right) - hidden_states.shape[1] + 1)
    extended = F.pad(hidden_states, (0, 0, 0, missing)) if missing else hidden_states
    last = extended.shape[1] - 1
    before, after = extended[:, 1 : left + 1].flip(1), extended[:, last - right : last].flip(1)
    padded = torch.cat([before, extended, after], dim=1)
    return padded[:, : padded.shape[1] - missing]


class AffectCodecConv1d(nn.Conv1d):
    """Convolution [B, T, C] -> [B, ceil(T / stride), C'] that looks at both sides, or (`causal`) back only."""

    def __init__(self, config, in_channels, out_channels, kernel_size, stride=1, dilation=1):
        total = (kernel_size - 1) * dilation - (stride - 1)
        self.left = total if config.causal else total - total // 2
        self.right = total - self.left
        self.reflect = config.pad_mode == "reflect"
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation)

    def _convolve(self, hidden_states, padding=0):
        return conv_steps(hidden_states, self.weight, self.bias, self.stride[0], padding, self.dilation[0])

    def forward(
        self,
        hidden_states: torch.Tensor,
        lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        if self.kernel_size == (1,):
            return self._convolve(hidden_states)
        if cache is not None:
            return self._convolve(cache.extend(self, hidden_states, self.left))
        steps = -(-hidden_states.shape[1] // self.stride[0])
        if self.reflect:
            extra = steps * self.stride[0] - hidden_states.shape[1]
            return self._convolve(_reflect_pad(hidden_states, self.left, self.right + extra))
        # Both sides get `left` zeros; the surplus on the right is cut, or never reaches a full window.
        return self._convolve(mask_steps(hidden_states, lengths), self.left)[:, :steps]


class AffectCodecConvTranspose1d(nn.ConvTranspose1d):
    """
    Transposed convolution [B, T, C] -> [B, T * stride, C'] with kernel 2 * stride.

    An output depends on two steps, so this is also a convolution of kernel 2 whose outputs hold `stride` steps each. With its
    weight, `step_weight`, it runs as that, which is two to five times as fast on CPUs.
    """

    def __init__(self, config, in_channels, out_channels, stride):
        super().__init__(in_channels, out_channels, 2 * stride, stride=stride)
        self.left = 0 if config.causal else stride - stride // 2

    def step_weight(self) -> torch.Tensor:
        """The weight [stride * C', C, 2] of that convolution."""
        # The first half of the kernel belongs to a step itself, the second to the one before, which comes first here.
        same, before = (half.permute(2, 1, 0) for half in self.weight.chunk(2, dim=-1))
        return torch.stack([before, same], dim=2).flatten(0, 1).transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
        step_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        stride = self.stride[0]
        if cache is None:
            extended, first = mask_steps(hidden_states, lengths), self.left
        else:
            # Each input step reaches two strides, so the one before has a part in the first.
            extended, first = cache.extend(self, hidden_states, 1), stride
        if step_weight is None:
            outputs = F.conv_transpose1d(extended.transpose(1, 2), self.weight, self.bias, stride).transpose(1, 2)
        else:
            outputs = conv_steps(extended, step_weight, self.bias.repeat(stride), padding=1)
            outputs = outputs.unflatten(-1, (stride, -1)).flatten(1, 2)
        return outputs[:, first : first + hidden_states.shape[1] * stride]


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
        return self.shortcut(hidden_states).add_(residual)


def _residual_units(config, dim):
    return nn.ModuleList(
        AffectCodecResidualUnit(config, dim, config.dilation_growth_rate**j) for j in range(config.num_residual_layers)
    )


class AffectCodecLSTM(nn.Module):
    """LSTM over time with a skip connection, [B, T, C] -> [B, T, C], or 2C channels when bidirectional."""

    def __init__(self, config, dim: int, bidirectional: bool):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, config.num_lstm_layers, bidirectional=bidirectional, batch_first=True)

    def forward(self, inputs, lengths=None, cache=None):
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
        return outputs + inputs

    def _step(self, inputs, cache):
        # The cache has items first, the LSTM its layers.
        before = cache.get(self)
        states = None if before is None else tuple(part.transpose(0, 1).contiguous() for part in before.unbind(1))
        outputs, after = self.lstm(inputs, states)
        cache.set(self, torch.stack([part.transpose(0, 1) for part in after], dim=1))
        return outputs


def _in_windows(function, inputs, lengths, context, steps_in, steps_out):
    """
    `function(inputs [1, T, C], lengths [1])` over windows of two seconds, item by item, with `context` frames on either side
    that are cut off: what it computes in between then stays in the caches of a CPU. A frame is `steps_in` steps of the
    inputs and `steps_out` of the outputs.
    """
    frames = -(-inputs.shape[1] // steps_in)
    outputs = []
    for item in range(inputs.shape[0]):
        for first, last, start, stop in windows(frames, WINDOW_FRAMES, context):
            part = inputs[item : item + 1, start * steps_in : stop * steps_in]
            left = None if lengths is None else (lengths[item : item + 1] - start * steps_in).clamp(min=0)
            outputs.append(function(part, left)[:, (first - start) * steps_out : (last - start) * steps_out])
    return torch.cat(outputs, dim=1).view(inputs.shape[0], -1, outputs[0].shape[-1])


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
        reach, steps = self.conv_in.left, 1
        for ratio in config.downsampling_ratios:
            units = _residual_units(config, dim)
            self.residual_units.append(units)
            self.downsamplers.append(AffectCodecConv1d(config, dim, 2 * dim, 2 * ratio, stride=ratio))
            reach += steps * (sum(unit.conv1.left for unit in units) + self.downsamplers[-1].left)
            steps *= ratio
            dim *= 2
        # Frames on either side that the convolutions before the LSTM look at.
        self.context = -(-reach // self.hop_length)
        self.lstm = AffectCodecLSTM(config, dim, bidirectional=not config.causal)
        self.conv_out = AffectCodecConv1d(
            config, dim if config.causal else 2 * dim, config.hidden_size, config.kernel_size
        )

    def _downsample(self, waveform, lengths, cache=None):
        """Samples [B, T, 1] -> frames [B, F, C]; lengths in samples."""
        hidden_states = self.conv_in(waveform, lengths, cache)
        for units, downsample in zip(self.residual_units, self.downsamplers, strict=True):
            for unit in units:
                hidden_states = unit(hidden_states, lengths, cache)
            hidden_states = downsample(elu(hidden_states), lengths, cache)
            lengths = None if lengths is None else lengths // downsample.stride[0]
        return hidden_states

    def forward(
        self,
        input_values: torch.Tensor,
        frame_lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        if self.pad_to_hop:
            # Whole frames from the start, so that every stage divides without a remainder.
            input_values = F.pad(input_values, (0, -input_values.shape[-1] % self.hop_length))
        waveform = input_values.to(self.conv_in.weight.dtype).transpose(1, 2)
        lengths = None if frame_lengths is None else frame_lengths * self.hop_length
        if cache is None and is_plain_cpu(waveform):
            hidden_states = _in_windows(self._downsample, waveform, lengths, self.context, self.hop_length, 1)
        else:
            hidden_states = self._downsample(waveform, lengths, cache)
        hidden_states = self.lstm(hidden_states, frame_lengths, cache)
        return self.conv_out(elu(hidden_states), frame_lengths, cache)


class AffectCodecSeanetDecoder(nn.Module):
    """Latents [B, F, D] -> waveform [B, 1, F * hop]."""

    def __init__(self, config):
        super().__init__()
        self.hop_length = config.hop_length
        dim = config.num_filters * 2 ** len(config.downsampling_ratios)
        self.conv_in = AffectCodecConv1d(config, config.hidden_size, dim, config.kernel_size)
        self.lstm = AffectCodecLSTM(config, dim, bidirectional=False)
        self.upsamplers = nn.ModuleList()
        self.residual_units = nn.ModuleList()
        reach, steps = 0, self.hop_length
        for ratio in reversed(config.downsampling_ratios):
            self.upsamplers.append(AffectCodecConvTranspose1d(config, dim, dim // 2, ratio))
            dim //= 2
            units = _residual_units(config, dim)
            self.residual_units.append(units)
            reach, steps = reach + steps, steps // ratio
            reach += steps * sum(unit.conv1.left for unit in units)
        self.conv_out = AffectCodecConv1d(config, dim, config.audio_channels, config.kernel_size)
        # Frames on either side that the convolutions after the LSTM look at.
        self.context = -(-(reach + self.conv_out.left) // self.hop_length)

    def _upsample(self, weights, hidden_states, lengths, cache=None):
        """Frames [B, F, C] -> samples [B, F * hop, 1]; lengths in frames."""
        for upsample, weight, units in zip(self.upsamplers, weights, self.residual_units, strict=True):
            hidden_states = upsample(elu(hidden_states), lengths, cache, weight)
            lengths = None if lengths is None else lengths * upsample.stride[0]
            for unit in units:
                hidden_states = unit(hidden_states, lengths, cache)
        return mask_steps(self.conv_out(elu(hidden_states), lengths, cache), lengths)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frame_lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        hidden_states = self.conv_in(hidden_states, frame_lengths, cache)
        hidden_states = self.lstm(hidden_states, frame_lengths, cache)
        if cache is None and is_plain_cpu(hidden_states):
            # For a few frames they would cost more than they save.
            long = hidden_states.shape[:2].numel() >= MIN_ROWS
            weights = [layer.step_weight() if long else None for layer in self.upsamplers]
            upsample = functools.partial(self._upsample, weights)
            waveform = _in_windows(upsample, hidden_states, frame_lengths, self.context, 1, self.hop_length)
        else:
            waveform = self._upsample([None] * len(self.upsamplers), hidden_states, frame_lengths, cache)
        return waveform.transpose(1, 2)


__all__ = ["AffectCodecSeanetDecoder", "AffectCodecSeanetEncoder"]
