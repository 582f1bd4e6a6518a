"""STOI: short-time objective intelligibility."""

import warnings

import numpy as np

from .waveforms import check_pair


try:
    import pystoi
except ImportError as error:
    raise ImportError("STOI needs the package `pystoi`: pip install 'hf-affectcodec[eval]'") from error


def stoi(reference, degraded, sampling_rate: int, extended: bool = False) -> float:
    """
    Short-time objective intelligibility (Taal et al., 2011), by the package `pystoi`: both waveforms are resampled to
    10 kHz, frames in which the *reference* is 40 dB below its loudest are dropped, and the correlations of the
    third-octave envelopes over windows of 384 ms are averaged. `extended=True` gives ESTOI (Jensen and Taal, 2016).

    Args:
        reference (array [T]): The original, full scale ±1.
        degraded (array [T]): The signal under test, same length, aligned to a few milliseconds.
        sampling_rate (`int`): In Hz.
        extended (`bool`, *optional*, defaults to `False`): ESTOI instead of STOI.

    Returns:
        `float`: -1 to 1, in practice 0 to 1 (identical). Higher is better.

    Raises:
        ValueError: A waveform is not usable (see [`~hf_affectcodec.metrics.waveforms.check_pair`]), or fewer than 30
            frames (384 ms) of the reference are left without its silence. `pystoi` returns 1e-5 there; that is not a
            measurement, so it is not passed on.
    """
    reference, degraded = check_pair(reference, degraded)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            value = float(pystoi.stoi(reference, degraded, sampling_rate, extended=extended))
        except RuntimeWarning as error:
            raise ValueError("`reference`: STOI needs 384 ms of speech after its silent frames are dropped") from error
        # Under two frames of sound there is no spectrum to count frames of.
        except (IndexError, np.exceptions.AxisError) as error:
            raise ValueError("`reference`: STOI needs 384 ms of speech, the clip is shorter than one frame") from error
    if not np.isfinite(value):
        raise ValueError(f"`degraded`: STOI of this clip is {value}")
    return value
