import cmath
import math

import numpy as np
import pytest
import torch

from hf_affectcodec.metrics.lsd import lsd, power_spectrum


def slow_lsd(reference, degraded, n_fft, hop):
    """The formula, term by term, with a Fourier sum written out."""
    pad = n_fft // 2
    frames = []
    for x in (reference, degraded):
        x = [float(value) for value in x]
        padded = x[pad:0:-1] + x + x[-2 : -pad - 2 : -1]
        spectra = []
        for start in range(0, len(padded) - n_fft + 1, hop):
            frame = [padded[start + n] * (0.5 - 0.5 * math.cos(2 * math.pi * n / n_fft)) for n in range(n_fft)]
            spectra.append(
                [
                    abs(sum(value * cmath.exp(-2j * math.pi * f * n / n_fft) for n, value in enumerate(frame))) ** 2
                    for f in range(n_fft // 2 + 1)
                ]
            )
        frames.append(spectra)
    distances = [
        math.sqrt(
            sum((math.log10(max(a, 1e-8)) - math.log10(max(b, 1e-8))) ** 2 for a, b in zip(x, y, strict=True)) / len(x)
        )
        for x, y in zip(*frames, strict=True)
    ]
    return sum(distances) / len(distances)


def test_against_the_formula_written_out():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 100)) * 0.1
    y[40:] *= 1e-6  # reaches the floor
    assert lsd(x, y, 16000, n_fft=16, hop_length=4) == pytest.approx(slow_lsd(x, y, 16, 4), rel=1e-9)


def test_the_spectrum_is_that_of_torch_stft(speech):
    expected = torch.stft(
        torch.from_numpy(speech).double(), 2048, 512, window=torch.hann_window(2048).double(), return_complex=True
    )
    np.testing.assert_allclose(
        power_spectrum(speech.astype(np.float64), 2048, 512), expected.abs().numpy().T ** 2, atol=1e-4
    )


def test_worked_values(speech):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(8000) * 0.1  # far above the floor everywhere
    assert lsd(noise, noise, 16000) == 0
    # A gain of 10 is 20 dB of power in every bin: two decades.
    assert lsd(noise, 10 * noise, 16000) == pytest.approx(2, abs=1e-9)
    assert lsd(noise, 0.1 * noise, 16000) == pytest.approx(2, abs=1e-9)
    assert lsd(speech, speech, 16000) == 0


def test_more_noise_is_worse(speech, add_noise):
    values = [lsd(speech, add_noise(speech, snr), 16000) for snr in (40, 20, 0)]
    assert 0 < values[0] < values[1] < values[2]


def test_short_clips(speech):
    assert lsd(speech[:1025], speech[:1025], 16000) == 0
    with pytest.raises(ValueError, match="`reference` must be longer than n_fft / 2 = 1024 samples, got 1024"):
        lsd(speech[:1024], speech[:1024], 16000)
