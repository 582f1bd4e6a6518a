import numpy as np
import pytest


def synthesize(seconds: float = 1.5, sampling_rate: int = 16000, seed: int = 0) -> np.ndarray:
    """
    Speech-like: 30 harmonics of a gliding F0 (150 to 250 Hz) under two moving formants, in syllables of about 0.25 s
    with pauses between them, and some breath. float32 [T], peak 0.5.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    f0 = 200 + 40 * np.sin(2 * np.pi * 0.9 * time + rng.uniform(0, 6)) + 10 * np.sin(2 * np.pi * 2.3 * time)
    phase = 2 * np.pi * np.cumsum(f0) / sampling_rate
    first = 550 + 200 * np.sin(2 * np.pi * 3.1 * time + rng.uniform(0, 6))
    second = 1700 + 500 * np.sin(2 * np.pi * 2.2 * time + rng.uniform(0, 6))
    voice = np.zeros_like(time)
    for harmonic in range(1, 31):
        frequency = harmonic * f0
        envelope = np.exp(-(((frequency - first) / 250) ** 2)) + 0.4 * np.exp(-(((frequency - second) / 350) ** 2))
        voice += (envelope + 0.02) * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.7 * time) + 0.4, 0, None) ** 0.7
    waveform = syllables * (voice + 0.02 * rng.standard_normal(time.size))
    return (0.5 * waveform / np.abs(waveform).max()).astype(np.float32)


@pytest.fixture(scope="session")
def synthesize_speech():
    """The function: a waveform float32 [T] from seconds, sampling_rate and seed."""
    return synthesize


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """1.5 s at 16 kHz."""
    return synthesize()


@pytest.fixture(scope="session")
def add_noise():
    """The function: a waveform with white noise at an SNR in dB."""

    def noisy(waveform: np.ndarray, snr: float, seed: int = 1) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(waveform.size)
        noise *= np.sqrt((waveform**2).mean() / (noise**2).mean()) * 10 ** (-snr / 20)
        return (waveform + noise).astype(np.float32)

    return noisy
