import numpy as np
import pytest

from hf_affectcodec.metrics.token_consistency import shift_consistency, slice_consistency


HOP = 4


def level_codes(waveform):
    """Shift-invariant: each frame's codes come from that frame alone. Two codebooks."""
    frames = waveform[: waveform.size // HOP * HOP].reshape(-1, HOP)
    return np.stack([np.abs(frames).sum(axis=1) * 1000 % 64, frames.max(axis=1) * 1000 % 64]).astype(int)


class RandomCodes:
    """New codes at every call, of K entries."""

    def __init__(self, size):
        self.rng, self.size = np.random.default_rng(0), size

    def __call__(self, waveform):
        return self.rng.integers(self.size, size=(3, waveform.size // HOP))


def context_codes(waveform, reach=2):
    """Codebook 0 sees its frame only, codebook 1 also `reach` frames before it (zeros where there are none)."""
    alone = level_codes(waveform)[0]
    before = np.concatenate([np.zeros(reach, int), alone])[: alone.size]
    return np.stack([alone, alone * 1000 + before])


@pytest.fixture
def clip():
    return np.random.default_rng(1).uniform(0.1, 1, size=60 * HOP)


def test_a_tokenizer_of_single_frames_is_consistent(clip):
    assert slice_consistency(level_codes, clip, HOP, num_frames=10).tolist() == [1, 1]
    assert slice_consistency(level_codes, clip, HOP, num_frames=7, starts=[0, 3, 53]).tolist() == [1, 1]
    assert shift_consistency(level_codes, clip, HOP, shift=3 * HOP).tolist() == [1, 1]
    # Another frame grid gives other frames: sums change, a maximum stays where it is one of the 3 samples of 5 in both.
    assert shift_consistency(level_codes, clip, HOP, shift=1) == pytest.approx([0, 3 / 5], abs=0.1)


def test_a_random_tokenizer_agrees_by_chance(clip):
    long = np.random.default_rng(1).uniform(0.1, 1, size=20_000 * HOP)
    for size in (2, 10):
        assert slice_consistency(RandomCodes(size), long, HOP) == pytest.approx(np.full(3, 1 / size), abs=0.02)
        assert shift_consistency(RandomCodes(size), long, HOP, HOP) == pytest.approx(np.full(3, 1 / size), abs=0.02)


def test_lost_context_is_counted_frame_by_frame(clip):
    # Of each slice the first 2 of 10 frames lose what codebook 1 saw; the slice at the beginning loses nothing.
    consistency = slice_consistency(context_codes, clip, HOP, num_frames=10)
    assert consistency == pytest.approx([1, 1 - 5 * 2 / 60])
    assert slice_consistency(context_codes, clip, HOP, num_frames=10, starts=[20]) == pytest.approx([1, 0.8])
    assert slice_consistency(context_codes, clip, HOP, num_frames=10, starts=[20], margin=1) == pytest.approx(
        [1, 7 / 8]
    )
    assert slice_consistency(context_codes, clip, HOP, num_frames=10, margin=2).tolist() == [1, 1]
    # Dropping 5 whole frames: 2 of the 55 left.
    assert shift_consistency(context_codes, clip, HOP, shift=5 * HOP) == pytest.approx([1, 53 / 55])
    assert shift_consistency(context_codes, clip, HOP, shift=5 * HOP, margin=2).tolist() == [1, 1]


def test_a_slow_tokenizer_survives_small_shifts():
    # Codes change every 10 frames; a shift by a quarter of a frame moves each change by at most one frame.
    clip = np.repeat(np.arange(1, 9) / 8, 10 * HOP)

    def encode(waveform):
        return (waveform[HOP // 2 :: HOP][None] * 8).astype(int)

    for shift, first in ((1, 0), (HOP - 1, 1)):
        slow = np.mean([encode(clip)[0, f + first] == encode(clip[shift:])[0, f] for f in range(79)])
        assert shift_consistency(encode, clip, HOP, shift) == pytest.approx([slow])
        assert slow > 0.85


def test_an_extra_frame_of_padding_is_allowed_and_a_lost_one_is_not(clip):
    def padded(waveform):
        return level_codes(np.pad(waveform, (0, HOP)))

    assert slice_consistency(padded, clip, HOP, num_frames=10).tolist() == [1, 1]
    assert shift_consistency(padded, clip, HOP, shift=HOP).tolist() == [1, 1]
    with pytest.raises(ValueError, match="`encode` must return 10 frames for 40 samples"):
        slice_consistency(lambda x: level_codes(x)[:, 1:], clip, HOP, num_frames=10)
    with pytest.raises(ValueError, match="`encode` must return a frame for each 4 samples"):
        shift_consistency(lambda x: level_codes(x)[:, 1:], clip, HOP, shift=HOP)


def test_bad_input(clip):
    with pytest.raises(ValueError, match="`encode` must return integers"):
        slice_consistency(lambda x: level_codes(x)[0], clip, HOP)
    with pytest.raises(ValueError, match="`encode` must return integers"):
        shift_consistency(lambda x: level_codes(x) / 2, clip, HOP, 1)
    with pytest.raises(ValueError, match="`waveform` must have 61 frames of 4 samples or more, got 60"):
        slice_consistency(level_codes, clip, HOP, num_frames=61)
    with pytest.raises(ValueError, match="`margin` must leave a frame"):
        slice_consistency(level_codes, clip, HOP, num_frames=10, margin=5)
    with pytest.raises(ValueError, match=r"`starts` must be in \[0, 50\], got 0 to 51"):
        slice_consistency(level_codes, clip, HOP, num_frames=10, starts=[0, 51])
    with pytest.raises(ValueError, match="`shift` must be 1 sample or more"):
        shift_consistency(level_codes, clip, HOP, 0)
    with pytest.raises(ValueError, match="has no frame left"):
        shift_consistency(level_codes, clip, HOP, shift=60 * HOP)
    with pytest.raises(ValueError, match="`waveform` is silent"):
        slice_consistency(level_codes, 0 * clip, HOP)
