"""Frame-rate backbone: log-mel -> ConvNeXt blocks, and ConvNeXt blocks -> inverse STFT (the Vocos family, Siuzdak 2024)."""

import functools
import math

import torch
import torch.nn.functional as F
import torchaudio
from torch import nn

from .cache_affectcodec import AffectCodecCache
from .layers_affectcodec import AffectCodecLinear


# Magnitudes are exp(network output); the bound keeps an untrained network from overflowing.
MAX_MAGNITUDE = 100.0
LOG_MEL_FLOOR = 1e-5


@functools.lru_cache(maxsize=16)
def _mel_filters(n_fft: int, bins: int, sampling_rate: int) -> torch.Tensor:
    # The result is kept: it must serve training, and on any device, also if inference asked first.
    with torch.inference_mode(False), torch.device("cpu"):
        return torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, sampling_rate / 2, bins, sampling_rate, norm=None, mel_scale="htk"
        )


def _mask_frames(hidden_states: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    return hidden_states if frame_mask is None else hidden_states * frame_mask[..., None]


class AffectCodecConvNextBlock(nn.Module):
    """Depthwise convolution over time, layer norm, feed-forward, scaled residual: [B, F, C] -> [B, F, C] (Liu et al. 2022)."""

    def __init__(self, config, num_layers: int):
        super().__init__()
        self.kernel_size = config.convnext_kernel_size
        self.causal = config.causal
        self.depthwise = nn.Conv1d(config.hidden_size, config.hidden_size, self.kernel_size, groups=config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.up_proj = AffectCodecLinear(config.hidden_size, config.intermediate_size)
        self.down_proj = AffectCodecLinear(config.intermediate_size, config.hidden_size)
        self.layer_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.layer_scale_init = 1.0 / num_layers

    def forward(self, hidden_states, frame_mask=None, cache=None):
        total = self.kernel_size - 1
        left = total if self.causal else total // 2
        mixed = _mask_frames(hidden_states, frame_mask)
        mixed = F.pad(mixed, (0, 0, left, total - left)) if cache is None else cache.extend(self, mixed, total)
        mixed = self.norm(self.depthwise(mixed.transpose(1, 2)).transpose(1, 2))
        mixed = F.gelu(self.up_proj(mixed))
        return hidden_states + self.layer_scale * self.down_proj(mixed)


class AffectCodecLogMel(nn.Module):
    """
    Log-mel spectrograms of several resolutions, stacked per frame: waveform [B, T] -> [B, F, sum of bins x hops].

    Frame f of a resolution is centred on its own hop (or, causal, ends with it), so F = T / hop_length exactly.
    """

    def __init__(self, config):
        super().__init__()
        self.hop_length = config.hop_length
        self.causal = config.causal
        self.sampling_rate = config.sampling_rate
        self.resolutions = list(zip(config.mel_n_ffts, config.mel_hop_lengths, config.mel_bins, strict=True))
        self.feature_size = sum(bins * (config.hop_length // hop) for _, hop, bins in self.resolutions)

    def _log_mel(self, waveform, n_fft, hop, bins, cache):
        total = n_fft - hop
        left = total if self.causal else total // 2
        if cache is None:
            padded = F.pad(waveform, (left, total - left))
        else:
            padded = cache.extend((self, n_fft, hop), waveform, total)
        frames = padded.unfold(-1, n_fft, hop)
        window = torch.hann_window(n_fft, device=waveform.device)
        magnitude = torch.fft.rfft(frames * window, dim=-1).abs()
        filters = _mel_filters(n_fft, bins, self.sampling_rate).to(waveform.device)
        return (magnitude @ filters).clamp(min=LOG_MEL_FLOOR).log()

    def forward(self, waveform: torch.Tensor, cache: AffectCodecCache | None = None) -> torch.Tensor:
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.float()
            frames = waveform.shape[-1] // self.hop_length
            mels = [self._log_mel(waveform, *resolution, cache) for resolution in self.resolutions]
            return torch.cat([mel.reshape(mel.shape[0], frames, -1) for mel in mels], dim=-1)


class AffectCodecIstftEncoder(nn.Module):
    """Waveform [B, 1, T] -> latents [B, F, D], F = ceil(T / hop)."""

    def __init__(self, config):
        super().__init__()
        self.hop_length = config.hop_length
        self.log_mel = AffectCodecLogMel(config)
        self.embed = AffectCodecLinear(self.log_mel.feature_size, config.hidden_size)
        self.embed_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.blocks = nn.ModuleList(
            AffectCodecConvNextBlock(config, config.num_encoder_layers) for _ in range(config.num_encoder_layers)
        )
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)

    def forward(
        self,
        input_values: torch.Tensor,
        frame_lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        waveform = F.pad(input_values[:, 0], (0, -input_values.shape[-1] % self.hop_length))
        features = self.log_mel(waveform, cache).to(self.embed.weight.dtype)
        frame_mask = frame_mask_from_lengths(frame_lengths, features.shape[1])
        hidden_states = self.embed_norm(self.embed(features))
        for block in self.blocks:
            hidden_states = block(hidden_states, frame_mask, cache)
        return self.final_norm(hidden_states)


class AffectCodecIstftDecoder(nn.Module):
    """
    Latents [B, F, D] -> waveform [B, 1, F * hop], through one spectrum of `istft_n_fft` samples per frame.

    A frame's spectrum is centred on its hop, so a sample needs frames up to `(istft_n_fft - hop) / 2` samples later, also
    with `causal=True`: that is then the decoder's latency.
    """

    def __init__(self, config):
        super().__init__()
        self.hop_length = config.hop_length
        self.n_fft = config.istft_n_fft
        self.embed_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.blocks = nn.ModuleList(
            AffectCodecConvNextBlock(config, config.num_decoder_layers) for _ in range(config.num_decoder_layers)
        )
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.head = AffectCodecLinear(config.hidden_size, self.n_fft + 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frame_lengths: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> torch.Tensor:
        frame_mask = frame_mask_from_lengths(frame_lengths, hidden_states.shape[1])
        hidden_states = self.embed_norm(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, frame_mask, cache)
        log_magnitude, phase = self.head(self.final_norm(hidden_states)).float().chunk(2, dim=-1)
        with torch.autocast(hidden_states.device.type, enabled=False):
            magnitude = log_magnitude.clamp(max=math.log(MAX_MAGNITUDE)).exp()
            spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
            frames = torch.fft.irfft(spectrum, n=self.n_fft, dim=-1)
            waveform = self._overlap_add(frames, frame_mask) if cache is None else self._stream_add(frames, cache)
            return waveform[:, None]

    @property
    def delay(self) -> int:
        """Samples of its future that a sample needs: in a stream it comes that much later."""
        return (self.n_fft - self.hop_length) // 2

    def _fold(self, pieces):
        """Windows [B, F, n_fft], a hop apart, to their sum [B, (F - 1) * hop + n_fft]."""
        length = (pieces.shape[1] - 1) * self.hop_length + self.n_fft
        return F.fold(pieces.transpose(1, 2), (1, length), kernel_size=(1, self.n_fft), stride=(1, self.hop_length))[
            :, 0, 0
        ]

    def _stream_add(self, frames, cache):
        """The F * hop samples that these frames complete; they belong `delay` samples earlier."""
        window = torch.hann_window(self.n_fft, device=frames.device)
        pieces = torch.stack([frames * window, window.square().expand_as(frames)], dim=1)
        sums = self._fold(pieces.flatten(0, 1)).unflatten(0, (frames.shape[0], 2))
        complete = frames.shape[1] * self.hop_length
        tail = cache.get(self)
        if tail is not None:
            sums = sums + F.pad(tail, (0, sums.shape[-1] - tail.shape[-1]))
        cache.set(self, sums[..., complete:])
        signal, envelope = sums[..., :complete].unbind(1)
        return signal / envelope.clamp(min=1e-8)

    def close(self, cache: AffectCodecCache) -> torch.Tensor:
        """The last `delay` samples [B, 1, delay] of streams that have ended."""
        signal, envelope = cache.get(self)[..., : self.delay].unbind(1)
        return (signal / envelope.clamp(min=1e-8))[:, None]

    def _overlap_add(self, frames, frame_mask):
        window = torch.hann_window(self.n_fft, device=frames.device)
        batch, num_frames, _ = frames.shape
        valid = frames.new_ones(batch, num_frames) if frame_mask is None else frame_mask.to(frames.dtype)
        signal = self._fold(frames * window * valid[..., None])
        # The envelope counts valid frames only, so that an item's end does not depend on the batch it is in.
        envelope = self._fold(window.square() * valid[..., None])
        keep = slice(self.delay, self.delay + num_frames * self.hop_length)
        waveform = signal[:, keep] / envelope[:, keep].clamp(min=1e-8)
        return waveform * valid.bool().repeat_interleave(self.hop_length, dim=1)


def frame_mask_from_lengths(frame_lengths: torch.Tensor | None, num_frames: int) -> torch.Tensor | None:
    """Lengths [B] -> mask [B, F], True at valid frames; `None` stays `None` (all frames valid)."""
    if frame_lengths is None:
        return None
    return torch.arange(num_frames, device=frame_lengths.device) < frame_lengths[:, None]


__all__ = ["AffectCodecIstftDecoder", "AffectCodecIstftEncoder", "frame_mask_from_lengths"]
