import math

import numpy as np
import pytest
import torch

from hf_affectcodec.metrics.codebook_usage import codebook_usage, count_codes


def test_hand_worked():
    # Of 4 entries: two evenly; one alone; all evenly; shares 1/2, 1/4, 1/8, 1/8 (1.75 bits).
    usage = codebook_usage([[4, 4, 0, 0], [8, 0, 0, 0], [2, 2, 2, 2], [4, 2, 1, 1]])
    assert usage.usage.tolist() == [0.5, 0.25, 1, 1]
    assert usage.entropy == pytest.approx([1, 0, 2, 1.75])
    assert usage.perplexity == pytest.approx([2, 1, 4, 2**1.75])
    assert usage.num_frames.tolist() == [8, 8, 8, 8]
    assert usage.entropy_rate(50) == pytest.approx([50, 0, 100, 87.5])
    assert not np.signbit(usage.entropy).any()  # no "-0.0" in tables


def test_even_use_of_the_papers_codebooks_is_its_bitrate():
    usage = codebook_usage(np.ones((8, 1024)))
    assert usage.entropy_rate(50).sum() == pytest.approx(4000)
    assert usage.perplexity == pytest.approx(np.full(8, 1024))


def test_random_codes_against_a_slow_count():
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 7, size=(3, frames)) ** 2 % 16 for frames in (5, 1, 40)]
    counts = count_codes([torch.from_numpy(clip) for clip in clips], codebook_size=16)
    usage = codebook_usage(torch.from_numpy(counts))
    for q in range(3):
        codes = [int(code) for clip in clips for code in clip[q]]
        assert counts[q].tolist() == [codes.count(k) for k in range(16)]
        shares = [codes.count(k) / len(codes) for k in set(codes)]
        assert usage.usage[q] == len(set(codes)) / 16
        assert usage.entropy[q] == pytest.approx(-sum(share * math.log2(share) for share in shares))
        assert usage.perplexity[q] == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)))


def test_counts_are_of_all_clips_together():
    # Each clip uses one entry; together they use two.
    usage = codebook_usage(count_codes([np.zeros((1, 6), int), np.ones((1, 6), int)], codebook_size=2))
    assert usage.perplexity == pytest.approx([2])


def test_bad_input():
    with pytest.raises(ValueError, match="`codes` holds no clips"):
        count_codes([], 4)
    with pytest.raises(ValueError, match=r"`codes`: clip 1 must have shape \[Q, F\] with one Q, got \[3, 2\]"):
        count_codes([np.zeros((2, 2), int), np.zeros((3, 2), int)], 4)
    with pytest.raises(ValueError, match=r"`codes`: clip 0 must be in \[0, 4\), got -1 to 4"):
        count_codes([np.array([[-1, 4]])], 4)
    with pytest.raises(ValueError, match="`codes`: clip 0 must hold integers"):
        count_codes([np.zeros((1, 2))], 4)
    with pytest.raises(ValueError, match="`counts`: codebook 1 has no codes"):
        codebook_usage([[1, 0], [0, 0]])
    with pytest.raises(ValueError, match="`counts` must be finite and not negative"):
        codebook_usage([[1, -1]])
    with pytest.raises(ValueError, match="`frame_rate` must be positive"):
        codebook_usage([[1, 1]]).entropy_rate(0)
