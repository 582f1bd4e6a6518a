import math

import numpy as np
import parselmouth
import pytest
import soundfile
from parselmouth.praat import call

from hf_affectcodec.metrics.prosody_similarity import (
    SCALES,
    energy_correlation,
    energy_track,
    log_f0_correlation,
    prosody_features,
    prosody_similarity,
)
from hf_affectcodec.shipped import demo_clip_path


RATE = 16000


def voice(f0, seconds: float = 1.0, level=0.0) -> np.ndarray:
    """Ten harmonics; F0 in Hz and level in dB are functions of the time in seconds, or numbers."""
    time = np.arange(round(seconds * RATE)) / RATE
    track = f0(time) if callable(f0) else np.full(time.size, float(f0))
    level = level(time) if callable(level) else level
    phase = 2 * np.pi * np.cumsum(track) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, 11)) * 0.1 * 10 ** (np.asarray(level) / 20)


def glide(semitones_per_second: float):
    return lambda time: 150 * 2 ** (semitones_per_second * time / 12)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """A real recording of 5 s."""
    samples, rate = soundfile.read(demo_clip_path())
    assert rate == RATE
    return samples


def flattened(clip: np.ndarray, strength: float) -> np.ndarray:
    """Praat's overlap-add resynthesis with F0 drawn towards its geometric mean: untouched at 0, monotone at 1."""
    sound = parselmouth.Sound(clip, RATE)
    manipulation = call(sound, "To Manipulation", 0.01, 75, 600)
    tier = call(manipulation, "Extract pitch tier")
    points = [
        (call(tier, "Get time from index", i), call(tier, "Get value at index", i))
        for i in range(1, call(tier, "Get number of points") + 1)
    ]
    mean = math.exp(np.mean([math.log(f0) for _, f0 in points]))
    call(tier, "Remove points between", 0, sound.duration)
    for time, f0 in points:
        call(tier, "Add point", time, mean**strength * f0 ** (1 - strength))
    call([manipulation, tier], "Replace pitch tier")
    return call(manipulation, "Get resynthesis (overlap-add)").values[0]


def test_pitch_features_of_a_glide():
    features = prosody_features(voice(glide(6), 2.0), RATE)
    assert features["pitch_slope"] == pytest.approx(6, abs=0.05)
    assert features["pitch_mean"] == pytest.approx(12 * np.log2(150) + 6, abs=0.05)
    # Uniform over the 12 semitones of 2 s, less the tracker's window.
    assert features["pitch_range"] == pytest.approx(0.8 * 6 * 1.95, abs=0.1)
    assert features["pitch_std"] == pytest.approx(6 * 1.95 / np.sqrt(12), abs=0.05)
    assert features["voiced_share"] == pytest.approx(1, abs=0.02)


def test_energy_features():
    tone = voice(200, 2.0)
    flat = prosody_features(tone, RATE)
    assert flat["energy_level"] == pytest.approx(10 * np.log10(np.mean(tone**2)), abs=0.2)
    assert flat["energy_std"] == pytest.approx(0, abs=0.2)
    assert flat["energy_range"] == pytest.approx(0, abs=0.4)
    fading = prosody_features(voice(200, 2.0, lambda time: -5 * time), RATE)
    assert fading["energy_slope"] == pytest.approx(-5, abs=0.05)
    assert fading["energy_std"] == pytest.approx(10 / np.sqrt(12), abs=0.1)
    assert fading["energy_range"] == pytest.approx(0.8 * 10, abs=0.3)
    assert fading["energy_level"] - flat["energy_level"] == pytest.approx(-1, abs=0.2)  # after a tenth of 10 dB
    assert flat["pitch_mean"] == pytest.approx(fading["pitch_mean"], abs=0.01)
    louder = prosody_features(2 * tone, RATE)
    assert louder["energy_level"] - flat["energy_level"] == pytest.approx(20 * np.log10(2))


def test_duration_features():
    # Three bursts of 0.4 s in 3 s.
    burst = np.concatenate([np.zeros(RATE * 3 // 10), voice(200, 0.4), np.zeros(RATE * 3 // 10)])
    features = prosody_features(np.tile(burst, 3), RATE)
    assert features["voiced_rate"] == pytest.approx(1, abs=0.03)
    assert features["voiced_length"] == pytest.approx(np.log2(0.4), abs=0.15)
    assert features["voiced_share"] == pytest.approx(0.4, abs=0.03)
    assert features["energy_range"] == pytest.approx(50, abs=0.5)  # pauses lie at the floor


def test_energy_track_written_out(speech):
    track = energy_track(speech, RATE)
    weights = np.hanning(400) ** 2
    expected = []
    for start in range(0, speech.size - 400 + 1, 160):
        frame = speech[start : start + 400].astype(np.float64)
        expected.append(
            10 * np.log10(sum(w * x * x for w, x in zip(weights, frame, strict=True)) / weights.sum() + 1e-30)
        )
    np.testing.assert_allclose(track, np.maximum(expected, max(expected) - 50), atol=1e-6)


def test_similarity_written_out(speech, clip):
    first, second = prosody_features(speech, RATE), prosody_features(clip, RATE)
    assert first.keys() == SCALES.keys()
    total = sum(((first[name] - second[name]) / SCALES[name]) ** 2 for name in SCALES)
    assert prosody_similarity(speech, clip, RATE) == pytest.approx(math.exp(-math.sqrt(total / 11)))
    assert prosody_similarity(clip, speech, RATE) == pytest.approx(prosody_similarity(speech, clip, RATE))
    assert prosody_similarity(clip, clip, RATE) == 1


def test_flatter_pitch_is_worse(clip):
    values = [prosody_similarity(clip, flattened(clip, strength), RATE) for strength in (0, 0.25, 0.5, 0.75, 1)]
    assert values[0] > 0.8
    assert all(better > worse + 0.02 for better, worse in zip(values[:-1], values[1:], strict=True)), values


def test_a_moved_pitch_or_level_is_worse():
    original = voice(glide(3))
    values = [prosody_similarity(original, voice(lambda t, k=k: glide(3)(t) * k), RATE) for k in (1.05, 1.2, 1.5)]
    assert 1 > values[0] > values[1] > values[2]
    values = [prosody_similarity(original, gain * original, RATE) for gain in (0.9, 0.7, 0.4)]
    assert 1 > values[0] > values[1] > values[2]


def test_more_noise_is_worse(clip, add_noise):
    for metric in (prosody_similarity, energy_correlation, log_f0_correlation):
        values = [metric(clip, add_noise(clip, snr), RATE) for snr in (30, 20, 10, 0)]
        assert 1 > values[0] > values[1] > values[2] > values[3], (metric.__name__, values)
        assert metric(clip, clip, RATE) == pytest.approx(1)


def test_energy_correlation_of_known_levels():
    def first(time):
        return 10 * np.sin(2 * np.pi * time)

    def second(time):
        return 6 * np.sin(2 * np.pi * time + 0.8) - 3

    time = np.linspace(0, 2, 2000)
    expected = np.corrcoef(first(time), second(time))[0, 1]
    x, y = voice(200, 2.0, first), voice(200, 2.0, second)
    assert energy_correlation(x, y, RATE) == pytest.approx(expected, abs=0.01)
    assert energy_correlation(x, 0.1 * y, RATE) == pytest.approx(expected, abs=0.01)


def test_log_f0_correlation_of_known_tracks():
    def first(time):
        return 200 * 2 ** (np.sin(2 * np.pi * time) / 2)

    def second(time):
        return 180 * 2 ** (np.sin(2 * np.pi * time + 0.8) / 2)

    time = np.linspace(0.03, 0.97, 1000)
    expected = np.corrcoef(np.log(first(time)), np.log(second(time)))[0, 1]
    assert log_f0_correlation(voice(first), voice(second), RATE) == pytest.approx(expected, abs=0.01)
    assert log_f0_correlation(voice(first), voice(lambda t: 1.2 * first(t)), RATE) == pytest.approx(1, abs=1e-3)
    assert log_f0_correlation(voice(first), voice(lambda t: 200**2 / first(t)), RATE) == pytest.approx(-1, abs=1e-3)


def test_clips_that_cannot_be_measured(clip):
    noise = np.random.default_rng(0).standard_normal(RATE) * 0.1
    with pytest.raises(ValueError, match="^`degraded` must have 10 voiced frames"):
        prosody_similarity(clip, noise, RATE)
    with pytest.raises(ValueError, match="^`reference` is silent"):
        prosody_similarity(np.zeros(RATE), clip, RATE)
    with pytest.raises(ValueError, match="^`degraded` is silent"):
        energy_correlation(clip, np.zeros(clip.size), RATE)
    with pytest.raises(ValueError, match="^`reference` must have at least 400 samples, got 399"):
        energy_correlation(clip[:399], clip[:399], RATE)
    with pytest.raises(ValueError, match="^`degraded` has a constant level"):
        energy_correlation(noise, np.ones(RATE), RATE)
    with pytest.raises(ValueError, match="`degraded` must have the length"):
        energy_correlation(clip, clip[:-1], RATE)
