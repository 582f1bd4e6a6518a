"""F0 tokens against the published examples, CREPE against tones of known pitch."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from hf_affectcodec.data.f0_tokens import f0_to_tokens, hz_to_mel, stretch_track, tokens_to_f0
from hf_affectcodec.data.f0_tracking import _viterbi, crepe_f0


SAMPLING_RATE = 16000


def harmonics(f0: np.ndarray, num_harmonics: int = 12) -> np.ndarray:
    phase = 2 * np.pi * np.cumsum(f0) / SAMPLING_RATE
    partials = (np.sin(k * phase) / k * (k * f0 < 7500) for k in range(1, num_harmonics + 1))
    return (0.1 * sum(partials)).astype(np.float32)


def glide(low: float, high: float, seconds: float) -> np.ndarray:
    return low * (high / low) ** np.linspace(0, 1, round(seconds * SAMPLING_RATE))


def test_bins_are_the_published_ones():
    f0 = [80, 100, 150, 200, 300, 440, 600, 1000]
    for unvoiced in ("interpolate", "token"):
        assert f0_to_tokens(f0, unvoiced).tolist() == [12, 20, 37, 54, 84, 122, 161, 238]
    assert hz_to_mel([50, 1100]) == pytest.approx([77.755, 1064.408], abs=1e-3)


def test_range_is_clipped():
    assert f0_to_tokens([20, 50, 1100, 3000], "token").tolist() == [1, 1, 255, 255]


def test_unvoiced_frames():
    f0 = [0, 0, 100, 0, 0, 0, 300, 0]
    assert f0_to_tokens(f0, "token").tolist() == [0, 0, 20, 0, 0, 0, 84, 0]
    # 100, 150, 200, 250, 300 Hz; 250 Hz is mel 344.17 and bin 1 + 254 (344.17 - 77.755) / 986.65 = 69.58
    assert f0_to_tokens(f0, "interpolate").tolist() == [20, 20, 20, 37, 54, 70, 84, 84]
    for unvoiced in ("interpolate", "token"):
        assert f0_to_tokens(np.zeros(3), unvoiced).tolist() == [0, 0, 0]


def test_tokens_come_back():
    tokens = np.arange(1, 256)
    assert f0_to_tokens(tokens_to_f0(tokens), "token").tolist() == tokens.tolist()
    assert tokens_to_f0(np.array([0, 256])).tolist() == [0, 0]
    f0 = np.linspace(50, 1100, 997)
    assert np.abs(tokens_to_f0(f0_to_tokens(f0, "token")) - f0).max() < 3.2


def test_stretching_repeats_and_leaves_out():
    assert stretch_track([1, 0, 3], 6).tolist() == [1, 1, 0, 0, 3, 3]
    assert stretch_track([1, 2, 3, 4, 5], 2).tolist() == [1, 3]


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: f0_to_tokens([100], "drop"), "`unvoiced`"),
        (lambda: f0_to_tokens([np.nan], "token"), "`f0`"),
        (lambda: f0_to_tokens([], "token"), "`f0`"),
        (lambda: tokens_to_f0(np.array([257])), "`tokens`"),
        (lambda: stretch_track([1.0], 0), "`num_frames`"),
        (lambda: crepe_f0(np.zeros(100, np.int16), 16000), "`waveform`"),
        (lambda: crepe_f0(np.zeros(100), 8000), "`sampling_rate`"),
        (lambda: crepe_f0(np.zeros(100), 16000, model="large"), "`model`"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


@pytest.mark.parametrize("low, high", [(80, 160), (250, 500)])
def test_crepe_follows_a_glide(low, high):
    """Its bins are 20 cents wide; the mean around the path is finer than that."""
    truth = glide(low, high, 0.5)
    f0, periodicity = crepe_f0(harmonics(truth), SAMPLING_RATE, hop_length=320, model="tiny")
    assert len(f0) == len(periodicity) == 1 + len(truth) // 320
    inner = slice(2, -2)  # windows that reach over the clip's ends
    cents = 1200 * np.log2(f0[inner] / truth[np.arange(len(f0))[inner] * 320])
    assert np.abs(cents).max() < 25
    assert np.median(np.abs(cents)) < 8


def test_crepe_finds_no_pitch_in_silence_and_little_in_noise():
    noise = np.random.default_rng(0).standard_normal(SAMPLING_RATE // 2)
    for waveform, most in ((np.zeros(8000), 0), (1e-4 * noise, 0), (0.1 * noise, 0.2)):
        f0, _ = crepe_f0(waveform, SAMPLING_RATE, hop_length=320, model="tiny")
        assert (f0 > 0).mean() <= most


def whispered(rng: np.random.Generator) -> np.ndarray:
    """Noise through three formants."""
    signal = rng.standard_normal(SAMPLING_RATE)
    for frequency, bandwidth in ((600, 90), (1400, 110), (2600, 160)):
        radius, angle = np.exp(-np.pi * bandwidth / SAMPLING_RATE), 2 * np.pi * frequency / SAMPLING_RATE
        signal = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], signal)
    return (0.1 * signal / signal.std()).astype(np.float32)


def creaking(rng: np.random.Generator) -> np.ndarray:
    """Pulses 22 to 40 ms apart (25 to 45 Hz, below the range), irregularly, through one formant."""
    pulses = np.zeros(SAMPLING_RATE)
    pulses[np.cumsum(rng.uniform(1 / 45, 1 / 25, 24) * SAMPLING_RATE).astype(int)] = 1
    radius, angle = np.exp(-np.pi * 100 / SAMPLING_RATE), 2 * np.pi * 700 / SAMPLING_RATE
    signal = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], pulses)
    return (0.1 * signal / signal.std()).astype(np.float32)


@pytest.mark.parametrize("sound", [whispered, creaking])
def test_crepe_finds_no_pitch_in_whisper_and_creak(sound):
    rng = np.random.default_rng(0)
    f0, _ = crepe_f0(sound(rng), SAMPLING_RATE, hop_length=320, model="tiny")
    assert (f0 > 0).mean() <= 0.1


def test_quiet_speech_is_told_from_silence_by_its_level():
    tone = harmonics(np.full(4000, 200.0))
    level = 20 * np.log10(np.sqrt((tone**2).mean()))
    for target, voiced in ((-50, True), (-70, False)):
        f0, _ = crepe_f0(tone * 10 ** ((target - level) / 20), SAMPLING_RATE, hop_length=320, model="tiny")
        assert (f0[2:-2] > 0).all() == voiced and (f0[2:-2] > 0).any() == voiced


def test_crepe_is_the_same_twice():
    tone = harmonics(np.full(4000, 200.0))
    first, second = (crepe_f0(tone, SAMPLING_RATE, hop_length=320, model="tiny")[0] for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.slow  # librosa compiles its decoder
def test_path_is_torchcrepes():
    torchcrepe = pytest.importorskip("torchcrepe")
    probabilities = torch.rand(1, 360, 40, generator=torch.Generator().manual_seed(0))
    probabilities[:, :20] = -torch.inf
    assert np.array_equal(_viterbi(probabilities[0].numpy()), torchcrepe.decode.viterbi(probabilities)[0][0].numpy())
