import numpy as np
import pytest

from hf_affectcodec.metrics.f0 import f0_correlation, f0_rmse, f0_track, log_f0_rmse, voicing_error


RATE = 16000


def tone(f0, seconds: float = 1.0) -> np.ndarray:
    """Ten harmonics of F0 in Hz: a number, or a function of the time in seconds."""
    time = np.arange(round(seconds * RATE)) / RATE
    track = f0(time) if callable(f0) else np.full(time.size, float(f0))
    phase = 2 * np.pi * np.cumsum(track) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, 11)) * 0.1


def test_track_of_known_pitch():
    track = f0_track(tone(220), RATE)
    assert track.size in (95, 96)  # every 10 ms, less the window of 50 ms
    np.testing.assert_allclose(track, 220, rtol=1e-3)
    assert (f0_track(np.zeros(RATE), RATE) == 0).all()
    assert (f0_track(np.random.default_rng(0).standard_normal(RATE), RATE) > 0).mean() < 0.1


def test_worked_values():
    low, high = tone(200), tone(212)
    assert f0_rmse(low, high, RATE) == pytest.approx(12, abs=0.1)
    assert log_f0_rmse(low, high, RATE) == pytest.approx(12 * np.log2(212 / 200), abs=0.01)
    assert voicing_error(low, high, RATE) == 0


def test_against_tracks_that_are_known():
    def first(time):
        return 200 + 50 * np.sin(2 * np.pi * time)

    def second(time):
        return 210 + 40 * np.sin(2 * np.pi * time + 0.4)

    time = np.linspace(0.03, 0.97, 1000)
    a, b = first(time), second(time)
    x, y = tone(first), tone(second)
    assert f0_rmse(x, y, RATE) == pytest.approx(np.sqrt(((a - b) ** 2).mean()), rel=0.02)
    assert log_f0_rmse(x, y, RATE) == pytest.approx(np.sqrt(((12 * np.log2(a / b)) ** 2).mean()), rel=0.02)
    assert f0_correlation(x, y, RATE) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=0.01)


def test_identical_clips(speech):
    assert f0_rmse(speech, speech, RATE) == 0
    assert log_f0_rmse(speech, speech, RATE) == 0
    assert f0_correlation(speech, speech, RATE) == pytest.approx(1)
    assert voicing_error(speech, speech, RATE) == 0


def test_voicing_error_counts_frames():
    voiced, half = tone(200), tone(200)
    half[RATE // 2 :] = 0
    assert voicing_error(voiced, half, RATE) == pytest.approx(0.5, abs=0.03)
    # Lost voicing is no error of F0.
    assert f0_rmse(voiced, half, RATE) < 1


def test_clips_that_cannot_be_measured():
    noise = np.random.default_rng(0).standard_normal(RATE) * 0.1
    for metric in (f0_rmse, log_f0_rmse, f0_correlation, voicing_error):
        with pytest.raises(ValueError, match="`reference` must have 10 voiced frames"):
            metric(noise, tone(200), RATE)
        with pytest.raises(ValueError, match="`waveform` must last at least 3 / pitch_floor = 0.050 s"):
            metric(tone(200, 0.04), tone(200, 0.04), RATE)
    with pytest.raises(ValueError, match="`degraded` must have 10 frames that are voiced in both"):
        f0_rmse(tone(200), noise, RATE)
    assert voicing_error(tone(200), noise, RATE) > 0.9
