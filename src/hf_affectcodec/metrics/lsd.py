"""Log-spectral distance."""

import numpy as np

from .waveforms import check_pair


# Floor of the power spectrum, as in NuWave and the bandwidth-extension papers after it.
POWER_FLOOR = 1e-8


def power_spectrum(waveform: np.ndarray, n_fft: int, hop_length: int) -> np.ndarray:
    """
    `|STFT|^2` with a periodic Hann window of `n_fft` samples, frames centred by reflecting `n_fft // 2` samples at
    both ends, no normalisation: the defaults of `torch.stft`.

    Args:
        waveform (`np.ndarray` [T]): T > `n_fft // 2`.

    Returns:
        `np.ndarray` [1 + T // hop_length, n_fft // 2 + 1].
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(waveform, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    return np.abs(np.fft.rfft(frames * window, axis=-1)) ** 2


def lsd(reference, degraded, sampling_rate: int, n_fft: int = 2048, hop_length: int = 512) -> float:
    """
    Log-spectral distance:

        LSD = mean_t sqrt( mean_f ( log10 max(X[t, f], 1e-8) - log10 max(Y[t, f], 1e-8) )^2 )

    with the power spectra X, Y of [`power_spectrum`]; n_fft 2048 and hop 512 as in NuWave (arXiv 2104.02321), AudioSR
    (arXiv 2309.07314) and others. The unit is one decade of power: 1.0 is 10 dB. The window is counted in samples, so
    values at different sampling rates are not comparable; nor are values in dB, with log of magnitude, or without the
    floor. The AffectCodec paper does not give its formula.

    Args:
        reference (array [T]): The original, full scale ±1 (the floor depends on the scale).
        degraded (array [T]): The signal under test, same length.
        sampling_rate (`int`): In Hz. It does not enter the formula; it is here so that metrics are called alike.
        n_fft (`int`, *optional*, defaults to 2048): Window in samples.
        hop_length (`int`, *optional*, defaults to 512): Hop in samples.

    Returns:
        `float`: 0 (identical) and up, in decades. Lower is better. Defined for a silent `degraded`: a large value.

    Raises:
        ValueError: A waveform is not usable (see [`~hf_affectcodec.metrics.waveforms.check_pair`]), or the clip has no
            more than `n_fft // 2` samples.
    """
    reference, degraded = check_pair(reference, degraded)
    if reference.size <= n_fft // 2:
        raise ValueError(f"`reference` must be longer than n_fft / 2 = {n_fft // 2} samples, got {reference.size}")
    log_reference, log_degraded = (
        np.log10(np.maximum(power_spectrum(waveform, n_fft, hop_length), POWER_FLOOR))
        for waveform in (reference, degraded)
    )
    return float(np.sqrt(((log_reference - log_degraded) ** 2).mean(axis=1)).mean())
