"""Delay between a waveform and its copy, and its removal: to be done before anything is compared sample by sample."""

import numpy as np

from .waveforms import check_audible, check_waveform


def estimate_lag(reference, degraded, sampling_rate: int, max_lag: float = 0.05) -> tuple[int, float]:
    """
    The lag k at which the normalised cross-correlation

        c[k] = sum_t x[t] y[t + k] / sqrt(sum_t x[t]^2 sum_t y[t]^2)

    is largest, |k| <= max_lag. Among equals (a periodic signal) the k nearest to zero is taken.

    Args:
        reference (array [T]): The original x.
        degraded (array [T2]): The signal y under test; the lengths may differ.
        sampling_rate (`int`): In Hz.
        max_lag (`float`, *optional*, defaults to 0.05): Largest lag in seconds to look at.

    Returns:
        `tuple[int, float]`: k in samples, positive where `degraded` is late, and c[k], which is 1 for a delayed copy.
        A codec that does not follow the waveform has a low c[k], and then k means nothing.

    Raises:
        ValueError: A waveform is not usable or is silent.
    """
    reference = check_audible(check_waveform(reference, "reference"), "reference")
    degraded = check_audible(check_waveform(degraded, "degraded"), "degraded")
    size = reference.size + degraded.size
    n_fft = 1 << (size - 1).bit_length()
    spectrum = np.conj(np.fft.rfft(reference, n_fft)) * np.fft.rfft(degraded, n_fft)
    correlation = np.fft.irfft(spectrum, n_fft) / np.sqrt((reference**2).sum() * (degraded**2).sum())

    limit = round(max_lag * sampling_rate)
    lags = range(-min(limit, reference.size - 1), min(limit, degraded.size - 1) + 1)
    lags = np.array(sorted(lags, key=abs))
    candidates = correlation[lags]  # negative lags lie at the end of the circular correlation
    # argmax takes the first, which is the nearest to zero; the tolerance is for the rounding of the transform.
    best = int(np.argmax(candidates >= candidates.max() - 1e-9))
    return int(lags[best]), float(candidates[best])


def align(degraded, lag: int, num_samples: int) -> np.ndarray:
    """
    Takes a delay out of a waveform.

    Args:
        degraded (array [T]): The waveform.
        lag (`int`): Its delay in samples, as [`estimate_lag`] gives it.
        num_samples (`int`): Length to return, that of the reference.

    Returns:
        `np.ndarray` [num_samples]: `degraded[lag : lag + num_samples]` in the dtype it came in, zeros where that lies
        outside.
    """
    degraded = np.asarray(degraded)
    aligned = np.zeros(num_samples, dtype=degraded.dtype)
    start, stop = max(lag, 0), min(lag + num_samples, degraded.size)
    if stop > start:
        aligned[start - lag : stop - lag] = degraded[start:stop]
    return aligned
