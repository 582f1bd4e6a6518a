import warnings

import numpy as np
import pytest

from hf_affectcodec.metrics.stoi import stoi


def slow_stoi(clean: np.ndarray, degraded: np.ndarray) -> float:
    """Taal et al. (2011), equations 1 to 6, band by band and frame by frame, at 10 kHz and without silent frames."""
    window = np.hanning(258)[1:-1]
    spectra = [
        np.array([np.abs(np.fft.rfft(x[start : start + 256] * window, 512)) for start in range(0, x.size - 256, 128)])
        for x in (clean, degraded)
    ]
    bins = np.arange(257) * 10000 / 512
    scores = []
    for band in range(15):
        low, high = (150 * 2 ** ((2 * band + side) / 6) for side in (-1, 1))
        inside = slice(np.abs(bins - low).argmin(), np.abs(bins - high).argmin())
        envelopes = [np.sqrt((spectrum[:, inside] ** 2).sum(1)) for spectrum in spectra]
        for end in range(30, len(envelopes[0]) + 1):
            x, y = (envelope[end - 30 : end] for envelope in envelopes)
            y = np.minimum(y * np.linalg.norm(x) / np.linalg.norm(y), x * (1 + 10 ** (15 / 20)))
            scores.append(np.corrcoef(x, y)[0, 1])
    return float(np.mean(scores))


def test_against_the_paper(add_noise):
    rng = np.random.default_rng(0)
    time = np.arange(15000) / 10000
    clean = rng.standard_normal(15000) * (1.2 + np.sin(2 * np.pi * 4 * time)) * 0.1  # modulated, never silent
    degraded = add_noise(clean, 3)
    # pystoi rebuilds the signal from windowed frames while it looks for silence, which changes it a little.
    assert stoi(clean, degraded, 10000) == pytest.approx(slow_stoi(clean, degraded), abs=5e-3)


def test_identical_clips(speech):
    assert stoi(speech, speech, 16000) == pytest.approx(1, abs=1e-6)
    assert stoi(speech, speech, 16000, extended=True) == pytest.approx(1, abs=1e-6)


def test_more_noise_is_worse(speech, add_noise):
    for extended in (False, True):
        values = [stoi(speech, add_noise(speech, snr), 16000, extended) for snr in (30, 10, -5)]
        assert 1 > values[0] > values[1] + 0.02 > values[2] + 0.04


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.04, 0.3])
def test_too_short_a_clip_is_refused_and_not_1e_minus_5(seconds, speech):
    clip = speech[1600 : 1600 + round(16000 * seconds)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="`reference`: STOI needs 384 ms"):
            stoi(clip, clip, 16000)


def test_sound_is_counted_without_silence(speech):
    clip = np.zeros(32000, dtype=np.float32)
    clip[8000:11200] = speech[1600:4800]  # 2 s, 0.2 s of which sound
    with pytest.raises(ValueError, match="after its silent frames"):
        stoi(clip, clip, 16000)
