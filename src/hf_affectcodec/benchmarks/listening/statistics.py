"""
Intervals and tests for answers of listeners.

Both listeners and clips are samples: a test is run so as to say something of other listeners and of other clips. Answers
of one listener resemble each other, and so do answers to one clip; taking all answers for independent draws, as
`mean ± 1.96 s / sqrt(n)` does, makes intervals far too narrow. So both are drawn here.
"""

from collections.abc import Sequence

import numpy as np

from hf_affectcodec.metrics.statistics import paired_permutation_test


NUM_RESAMPLES = 5_000


def holm(p_values: Sequence[float]) -> list[float]:
    """
    p values corrected for their number (Holm, 1979): with m of them in rising order, the i-th (from 0) becomes
    `max_{j <= i} min(1, (m - j) p_j)`. The chance of any false claim is then at most the level, whatever their
    dependence.

    Args:
        p_values (sequence of `float`): In any order.

    Returns:
        `list[float]`: In the same order.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, values[order] * np.arange(len(values), 0, -1)))
    return corrected.tolist()


def score_matrix(scores: Sequence[tuple[str, str, float]], listeners: Sequence[str], clips: Sequence[str]):
    """
    Mean score of each listener for each clip.

    Args:
        scores (sequence of `tuple`): Listener, clip and score.
        listeners, clips (sequence of `str`): Rows and columns.

    Returns:
        `np.ndarray` [L, C]: NaN where there is no score.
    """
    rows, columns = ({name: index for index, name in enumerate(names)} for names in (listeners, clips))
    sums, counts = (np.zeros((len(listeners), len(clips))) for _ in range(2))
    for listener, clip, score in scores:
        sums[rows[listener], columns[clip]] += score
        counts[rows[listener], columns[clip]] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def two_way_interval(
    first, second=None, seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """
    Percentile interval of a mean, or of a difference of means, by a bootstrap that draws listeners and clips, each with
    replacement and independently of the other (the "pigeonhole" bootstrap of Owen, 2007). It is somewhat wide where
    listeners and clips hardly differ, and never narrow because answers depend on each other.

    Args:
        first (array [L, C]): Scores, see [`score_matrix`].
        second (array [L, C], *optional*): Scores of another system; the interval is of first less second then, both from
            the same draws.
        seed (`int`, *optional*, defaults to 0): Of NumPy's default generator.
        confidence (`float`, *optional*, defaults to 0.95): Coverage, in (0, 1).
        num_resamples (`int`, *optional*, defaults to 5000): Resamples.

    Returns:
        `tuple[float, float]`: Low and high end; NaN with fewer than two listeners. Of a single clip, only listeners are
        drawn, and nothing is said of other clips.
    """
    matrices = [np.asarray(item, dtype=np.float64) for item in (first, second) if item is not None]
    if any(item.ndim != 2 or item.shape != matrices[0].shape for item in matrices):
        raise ValueError(f"`first` and `second` must have one shape [listeners, clips], got {matrices[0].shape}")
    answered = np.any([~np.isnan(item) for item in matrices], axis=0)
    matrices = [item[answered.any(axis=1)][:, answered.any(axis=0)] for item in matrices]
    num_listeners, num_clips = matrices[0].shape
    if num_listeners < 2:
        return np.nan, np.nan
    generator = np.random.default_rng(seed)
    listeners, clips = (
        generator.multinomial(number, np.full(number, 1 / number), num_resamples).astype(np.float64)
        for number in (num_listeners, num_clips)
    )
    means = []
    for scores in matrices:
        there = ~np.isnan(scores)
        sums = ((listeners @ np.where(there, scores, 0.0)) * clips).sum(axis=1)
        weights = ((listeners @ there) * clips).sum(axis=1)
        # With many gaps a draw may hold no answer at all.
        means.append(np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0))
    values = means[0] if second is None else means[0] - means[1]
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def two_way_test(first, second, seed: int = 0) -> tuple[float, float]:
    """
    Two-sided permutation tests of a difference of means, by listeners and by clips: the signs of the listeners'
    differences of their means are flipped, then those of the clips' (F1 and F2 of Clark, 1973, without their normality).
    A difference is claimed where both tests find it, that is at the larger p.

    Where not every listener heard every clip by both systems, means are over different clips (or listeners), and a
    test is only as fair as their assignment was.

    Args:
        first, second (array [L, C]): Scores of two systems, see [`score_matrix`].
        seed (`int`, *optional*, defaults to 0): See [`~hf_affectcodec.metrics.statistics.paired_permutation_test`].

    Returns:
        `tuple[float, float]`: p by listeners and p by clips, no smaller than 2^(1 - L) and 2^(1 - C): with fewer than
        six of either nothing is significant at .05. NaN where no listener (no clip) has both systems.
    """
    values = []
    for axis in (1, 0):
        means = [_means(np.asarray(item, dtype=np.float64), axis) for item in (first, second)]
        both = ~np.isnan(means[0]) & ~np.isnan(means[1])
        values.append(paired_permutation_test(means[0][both], means[1][both], seed=seed) if both.any() else np.nan)
    return values[0], values[1]


def _means(scores: np.ndarray, axis: int) -> np.ndarray:
    """Over one axis, NaN where there is nothing."""
    there = ~np.isnan(scores)
    counts = there.sum(axis=axis)
    sums = np.where(there, scores, 0.0).sum(axis=axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
