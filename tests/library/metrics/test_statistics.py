import itertools

import numpy as np
import pytest

from hf_affectcodec.metrics import statistics
from hf_affectcodec.metrics.statistics import (
    bootstrap_interval,
    compare_pairs,
    paired_differences,
    paired_permutation_test,
    summarize,
)


def test_nan_is_counted_and_never_averaged():
    summary = summarize([1.0, np.nan, 3.0, np.nan, 5.0])
    assert (summary.n, summary.n_failed, summary.mean) == (3, 2, 3.0)
    assert (summary.low, summary.high) == bootstrap_interval([1.0, 3.0, 5.0])


def test_few_values():
    empty = summarize([np.nan, np.nan])
    assert (empty.n, empty.n_failed) == (0, 2)
    assert np.isnan([empty.mean, empty.low, empty.high]).all()
    single = summarize([2.0, np.nan])
    assert (single.n, single.n_failed, single.mean) == (1, 1, 2.0)
    assert np.isnan([single.low, single.high]).all()


def test_interval_against_all_resamples():
    # Three values have 27 resamples; the quantiles of their means are the limit of the bootstrap.
    values = [0.0, 1.0, 5.0]
    means = [np.mean(choice) for choice in itertools.product(values, repeat=3)]
    expected = np.quantile(means, [0.2, 0.8])
    assert bootstrap_interval(values, confidence=0.6, num_resamples=50_000) == pytest.approx(expected, abs=0.02)


def test_interval_against_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, 400)
    half = 1.96 * values.std() / 20
    assert bootstrap_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(rng.normal(size=30), num_resamples=500) for _ in range(300)]
    assert 0.88 < np.mean([low <= 0 <= high for low, high in intervals]) < 0.99


def test_seed_and_memory(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    interval = bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) == interval
    assert bootstrap_interval(values, seed=4) != interval
    p = paired_permutation_test(values, np.zeros(50), seed=3)
    monkeypatch.setattr(statistics, "CHUNK", 170)
    assert bootstrap_interval(values, seed=3) == interval
    assert paired_permutation_test(values, np.zeros(50), seed=3) == p


def test_permutation_test_worked_by_hand():
    # Differences 1, 2, 3: of the 8 sign patterns only +++ and --- reach |sum| = 6.
    assert paired_permutation_test([1.0, 2.0, 3.0], np.zeros(3)) == 2 / 8
    # Differences 1, 1, -1: every pattern has |sum| of 1 or 3.
    assert paired_permutation_test([1.0, 1.0, -1.0], np.zeros(3)) == 1
    assert paired_permutation_test([0.0, 0.0], [0.0, 0.0]) == 1


def test_drawn_patterns_agree_with_all_patterns():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.4, 1, 12), rng.normal(0, 1, 12)
    exact = paired_permutation_test(first, second)
    drawn = paired_permutation_test(first, second, num_permutations=4000)
    assert drawn == pytest.approx(exact, abs=0.03)
    assert drawn != exact


def test_permutation_test_is_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(0)
    p = [paired_permutation_test(*rng.normal(size=(2, 20)), num_permutations=300) for _ in range(200)]
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert paired_permutation_test(rng.normal(1, 0.5, 50), np.zeros(50)) == 1 / 10_001


def test_pairs_with_nan_are_left_out():
    first, second = [1.0, np.nan, 3.0, 4.0], [0.5, 1.0, np.nan, 2.0]
    assert paired_differences(first, second).tolist() == [0.5, 2.0]
    assert paired_permutation_test(first, second) == paired_permutation_test([1.0, 4.0], [0.5, 2.0])


def test_refusals():
    with pytest.raises(ValueError, match="`values` must hold two values or more, got 1"):
        bootstrap_interval([1.0])
    with pytest.raises(ValueError, match="`values` holds NaN"):
        bootstrap_interval([1.0, np.nan])
    with pytest.raises(ValueError, match="`values` holds infinite values"):
        summarize([1.0, np.inf])
    with pytest.raises(ValueError, match="`confidence` must be between 0 and 1"):
        bootstrap_interval([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="`second` must have one value a clip of `first`, got 2 and 3"):
        paired_permutation_test([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="no clip was measured in both"):
        paired_permutation_test([np.nan, 1.0], [1.0, np.nan])


def test_pairs_are_compared():
    first, second = np.array([3.0, np.nan, 5.0, 4.0]), np.array([1.0, 2.0, 2.0, np.nan])
    found = compare_pairs(first, second)
    assert found["n"] == 2 and found["difference"] == 2.5 and found["p"] == 2 / 4
    assert (found["low"], found["high"]) == bootstrap_interval([2.0, 3.0])
    one = compare_pairs(first[:1], second[:1])
    assert (one["n"], one["difference"], one["p"]) == (1, 2.0, 1.0) and np.isnan(one["low"])
    none = compare_pairs([np.nan], [1.0])
    assert none.pop("n") == 0 and all(np.isnan(value) for value in none.values())
