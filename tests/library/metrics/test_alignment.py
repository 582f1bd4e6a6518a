import numpy as np
import pytest

from hf_affectcodec.metrics.alignment import align, estimate_lag


def slow_correlation(x, y, lag):
    total = sum(x[t] * y[t + lag] for t in range(len(x)) if 0 <= t + lag < len(y))
    return total / np.sqrt(sum(value**2 for value in x) * sum(value**2 for value in y))


def test_against_the_sum_written_out():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(50), rng.standard_normal(40)
    values = {lag: slow_correlation(x, y, lag) for lag in range(-8, 9)}
    lag, correlation = estimate_lag(x, y, 1000, max_lag=0.008)
    assert lag == max(values, key=values.get)
    assert correlation == pytest.approx(values[lag])


@pytest.mark.parametrize("lag", [-700, -3, 0, 1, 480])
def test_a_delay_is_found_and_taken_out(lag, speech, add_noise):
    late = align(add_noise(speech, 10), -lag, speech.size)
    found, correlation = estimate_lag(speech, late, 16000)
    assert found == lag
    assert 0.9 < correlation < 1
    restored = align(late, found, speech.size)
    inside = slice(max(0, -lag), speech.size - max(0, lag))
    np.testing.assert_array_equal(restored[inside], add_noise(speech, 10)[inside])


def test_identical_and_periodic_signals(speech):
    assert estimate_lag(speech, speech, 16000) == (0, pytest.approx(1))
    # Equal peaks at every period: the one at zero.
    impulses = np.tile([1.0, 0, 0, 0], 1000)
    assert estimate_lag(np.r_[np.zeros(200), impulses, np.zeros(200)], impulses[:400], 16000, 0.02)[0] % 4 == 0
    assert estimate_lag(impulses[:400], np.r_[np.zeros(400), impulses], 16000, 0.05)[0] == 400


def test_align_fills_with_zeros_and_keeps_the_dtype():
    wave = np.arange(1, 6, dtype=np.float32)
    assert align(wave, 2, 5).tolist() == [3, 4, 5, 0, 0]
    assert align(wave, -2, 5).tolist() == [0, 0, 1, 2, 3]
    assert align(wave, 0, 3).tolist() == [1, 2, 3]
    assert align(wave, 0, 7).tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert align(wave, 9, 4).tolist() == [0, 0, 0, 0]
    assert align(wave, -9, 4).tolist() == [0, 0, 0, 0]
    assert align(wave, 1, 5).dtype == np.float32


def test_silence_has_no_lag(speech):
    with pytest.raises(ValueError, match="`degraded` is silent"):
        estimate_lag(speech, np.zeros_like(speech), 16000)
