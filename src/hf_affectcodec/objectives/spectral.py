"""Spectral reconstruction losses."""

import functools

import torch
import torchaudio


MEL_WINDOWS = tuple(2**i for i in range(5, 12))
LOG_FLOOR = 1e-5


@functools.lru_cache(maxsize=64)
def _window_and_filters(window_length: int, num_mels: int, sampling_rate: int, device: torch.device):
    with torch.inference_mode(False):
        return _make_window_and_filters(window_length, num_mels, sampling_rate, device)


def _make_window_and_filters(window_length, num_mels, sampling_rate, device):
    filters = torchaudio.functional.melscale_fbanks(
        window_length // 2 + 1, 0.0, sampling_rate / 2, num_mels, sampling_rate, norm=None, mel_scale="htk"
    )
    return torch.hann_window(window_length, device=device), filters.to(device)


def mel_bins(window_length: int) -> int:
    """Mel bins of a window of 2^i samples: min(80, 2^(i-2)), since a short FFT has few bins to pool."""
    return min(80, window_length // 4)


def log_mel_spectrogram(
    waveform: torch.Tensor, window_length: int, sampling_rate: int = 16000, floor: float = LOG_FLOOR
) -> torch.Tensor:
    """Natural log of the mel magnitude spectrogram: waveform [B, T] -> [B, frames, mel_bins], hop `window_length / 4`."""
    window, filters = _window_and_filters(window_length, mel_bins(window_length), sampling_rate, waveform.device)
    spectrum = torch.stft(
        waveform.float(),
        window_length,
        window_length // 4,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = torch.view_as_real(spectrum).square().sum(-1)
    # A floor inside the root keeps the gradient finite at silence.
    magnitude = (power + 1e-9).sqrt()
    return (magnitude.transpose(1, 2) @ filters).clamp(min=floor).log()


def multi_scale_mel_loss(
    prediction: torch.Tensor, target: torch.Tensor, sampling_rate: int = 16000, windows: tuple[int, ...] = MEL_WINDOWS
) -> torch.Tensor:
    """
    Mean over the windows of L1 + L2 between log-mel spectrograms (arXiv 2605.11098, Eq. for L_mel).

    The paper sums over windows 2^5..2^11 with hops of a quarter; the mean used here only rescales its weight. The paper
    leaves the mel bins, the logarithm and the form of L2 open: bins are min(80, 2^(i-2)), magnitudes are in natural log, L2
    is the mean squared error.

    Args:
        prediction (`torch.Tensor` of shape `(batch, 1, samples)`): Rebuilt waveform.
        target (`torch.Tensor` of shape `(batch, 1, samples)`): Original waveform.
        sampling_rate (`int`): In Hz.
        windows (`tuple[int]`): Window lengths in samples.

    Returns:
        `torch.Tensor` of shape `()`, float32.
    """
    total = prediction.new_zeros((), dtype=torch.float32)
    with torch.autocast(prediction.device.type, enabled=False):
        for window_length in windows:
            with torch.no_grad():
                target_mel = log_mel_spectrogram(target[:, 0], window_length, sampling_rate)
            difference = log_mel_spectrogram(prediction[:, 0], window_length, sampling_rate) - target_mel
            total = total + difference.abs().mean() + difference.square().mean()
    return total / len(windows)


__all__ = ["log_mel_spectrogram", "mel_bins", "multi_scale_mel_loss"]
