"""
What a table may say about values measured on many clips.

A clip that could not be measured is NaN here. It is counted and never averaged. Clips are treated as independent
draws; where a few speakers give many clips each, intervals are narrower than they would be for new speakers.
"""

from dataclasses import dataclass

import numpy as np


CHUNK = 1_000_000  # elements drawn at once; bounds the memory, does not change the result


@dataclass(frozen=True)
class Summary:
    """
    Args:
        n (`int`): Clips that were measured and averaged.
        n_failed (`int`): Clips that were not.
        mean (`float`): Mean of the n values, NaN for n = 0.
        low, high (`float`): Bootstrap interval of the mean, NaN for n < 2.
    """

    n: int
    n_failed: int
    mean: float
    low: float
    high: float


def _vector(values, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"`{name}` must be one value a clip, shape [N], got shape {list(values.shape)}")
    if np.isinf(values).any():
        raise ValueError(f"`{name}` holds infinite values; a clip that cannot be measured is NaN")
    return values


def bootstrap_interval(
    values, seed: int = 0, confidence: float = 0.95, num_resamples: int = 10_000
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of the mean: the mean of N draws with replacement, `num_resamples` times, and of
    these means the quantiles (1 - confidence) / 2 and (1 + confidence) / 2.

    Args:
        values (array [N]): One value a clip, N >= 2, no NaN.
        seed (`int`, *optional*, defaults to 0): Of NumPy's default generator; equal seeds give equal intervals.
        confidence (`float`, *optional*, defaults to 0.95): Coverage, in (0, 1).
        num_resamples (`int`, *optional*, defaults to 10000): Resamples.

    Returns:
        `tuple[float, float]`: Low and high end, in the unit of the values.

    Raises:
        ValueError: Fewer than two values, or one of them is NaN or infinite.
    """
    values = _vector(values, "values")
    if values.size < 2:
        raise ValueError(f"`values` must hold two values or more, got {values.size}")
    if np.isnan(values).any():
        raise ValueError("`values` holds NaN; see `summarize`, which counts them")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}")
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // values.size)
    means = np.concatenate(
        [
            values[generator.integers(values.size, size=(min(rows, num_resamples - start), values.size))].mean(axis=1)
            for start in range(0, num_resamples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def summarize(values, seed: int = 0, confidence: float = 0.95, num_resamples: int = 10_000) -> Summary:
    """
    Args:
        values (array [N]): One value a clip, NaN where the clip could not be measured.
        seed, confidence, num_resamples: See [`bootstrap_interval`].

    Returns:
        [`Summary`]: Of the values that are not NaN.

    Raises:
        ValueError: A value is infinite, or the shape is not [N].
    """
    values = _vector(values, "values")
    measured = values[~np.isnan(values)]
    low, high = (
        bootstrap_interval(measured, seed, confidence, num_resamples) if measured.size > 1 else (np.nan, np.nan)
    )
    return Summary(
        n=measured.size,
        n_failed=values.size - measured.size,
        mean=float(measured.mean()) if measured.size else np.nan,
        low=low,
        high=high,
    )


def paired_differences(first, second) -> np.ndarray:
    """
    Returns `first - second` [M] over the M clips that were measured in both.

    Args:
        first, second (array [N]): One value a clip in the same order, NaN where a clip could not be measured.

    Raises:
        ValueError: The lengths differ, or a value is infinite.
    """
    first, second = _vector(first, "first"), _vector(second, "second")
    if first.shape != second.shape:
        raise ValueError(f"`second` must have one value a clip of `first`, got {second.size} and {first.size}")
    differences = first - second
    return differences[~np.isnan(differences)]


def paired_permutation_test(first, second, seed: int = 0, num_permutations: int = 10_000) -> float:
    """
    Two-sided permutation test of the mean paired difference: if the two systems were alike, the sign of each clip's
    difference would be a coin flip. The p value is the share of sign patterns whose |mean| is at least the observed
    one. With 2^M <= num_permutations (M clips) all patterns are counted and p is exact; otherwise they are drawn, and
    the observed one counts as one more, p = (1 + hits) / (1 + num_permutations) (Phipson and Smyth, 2010).

    Args:
        first, second (array [N]): One value a clip in the same order; clips with NaN in either are left out.
        seed (`int`, *optional*, defaults to 0): Of NumPy's default generator.
        num_permutations (`int`, *optional*, defaults to 10000): Sign patterns to draw.

    Returns:
        `float`: p in (0, 1]. Not corrected for the number of tests in a table.

    Raises:
        ValueError: No clip was measured in both.
    """
    differences = paired_differences(first, second)
    if differences.size == 0:
        raise ValueError("`second`: no clip was measured in both")
    observed = abs(differences.sum())
    # Equal up to rounding counts as "at least".
    threshold = observed - 1e-9 * np.abs(differences).sum()
    if 2**differences.size <= num_permutations:
        patterns = np.arange(2**differences.size)
        signs = 1 - 2 * ((patterns[:, None] >> np.arange(differences.size)) & 1)
        return float((np.abs(signs @ differences) >= threshold).mean())

    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // differences.size)
    hits = 0
    for start in range(0, num_permutations, rows):
        shape = (min(rows, num_permutations - start), differences.size)
        signs = 1 - 2 * generator.integers(2, size=shape)
        hits += int((np.abs(signs @ differences) >= threshold).sum())
    return (1 + hits) / (1 + num_permutations)


def compare_pairs(first, second, seed: int = 0) -> dict:
    """
    Two systems on the same clips.

    Args:
        first, second (array [N]): One value a clip in the same order, NaN where a clip could not be measured.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap and of the permutations.

    Returns:
        `dict`: `n` clips measured in both; `difference`, the mean of `first - second` over them; `low` and `high`, its 95 %
        [`bootstrap_interval`]; `p` of the [`paired_permutation_test`]. What too few clips cannot give is NaN.

    Raises:
        ValueError: See [`paired_differences`].
    """
    differences = paired_differences(first, second)
    low, high = bootstrap_interval(differences, seed) if differences.size > 1 else (np.nan, np.nan)
    return {
        "n": differences.size,
        "difference": float(differences.mean()) if differences.size else np.nan,
        "low": low,
        "high": high,
        "p": paired_permutation_test(first, second, seed) if differences.size else np.nan,
    }
