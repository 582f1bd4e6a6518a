"""Backends whose values are known, in place of networks."""

import numpy as np


TEXT = "alpha bravo delta echo"


def _audible(waveform):
    if not np.any(waveform):
        raise ValueError("`waveform` is silent")
    return np.asarray(waveform, dtype=np.float64)


def embed(waveform, sampling_rate):
    """Level and two moments of the spectrum: something that a gain changes."""
    waveform = _audible(waveform)
    power = np.abs(np.fft.rfft(waveform)) ** 2
    frequencies = np.linspace(0, 1, power.size)
    centre = (power * frequencies).sum() / power.sum()
    return np.array(
        [np.log10((waveform**2).mean()), centre, (power * (frequencies - centre) ** 2).sum() / power.sum()]
    )


def classify(waveform, sampling_rate):
    loud = np.abs(_audible(waveform)).max() > 0.3
    return np.array([0.9, 0.1]) if loud else np.array([0.2, 0.8])


def transcribe(waveforms, sampling_rate, languages):
    """The quieter, the fewer words."""
    assert len(waveforms) == 1 and languages == ["en"]
    peak = np.abs(_audible(waveforms[0])).max()
    return [" ".join(TEXT.split()[: 4 if peak > 0.4 else 3 if peak > 0.2 else 2])]


def rate(waveform, sampling_rate):
    return {"distillmos": float(np.abs(_audible(waveform)).max())}
