"""
Columns of a table: how the values of one system's clips become a number with an interval, and how two systems compare.

A clip whose value is missing *failed* (and is counted) unless there was nothing to measure on it, such as words in a clip
without transcript: that clip is *skipped*, for every system alike. Neither is averaged.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

from hf_affectcodec.metrics.statistics import Summary, compare_pairs, summarize


@dataclass(frozen=True)
class MeanColumn:
    """
    The mean over clips of one number a clip.

    Args:
        label (`str`): Heading, with the direction that is better.
        digits (`int`): Decimals printed.
    """

    label: str
    digits: int

    def summarize(self, values, skipped: np.ndarray, seed: int) -> dict:
        """
        Args:
            values (array [N]): One number a clip, NaN where it failed.
            skipped (`np.ndarray` [N]): bool, clips on which there was nothing to measure.
            seed (`int`): Of the bootstrap.

        Returns:
            `dict`: The fields of [`~hf_affectcodec.metrics.statistics.Summary`], and `n_skipped`.
        """
        values = np.asarray(values, dtype=np.float64)
        return {**asdict(summarize(values[~skipped], seed)), "n_skipped": int(skipped.sum())}

    def compare(self, first, second, skipped: np.ndarray, seed: int) -> dict:
        """`first - second` on the clips measured in both: `n`, `difference`, its interval `low` to `high`, and `p`."""
        first, second = (np.asarray(values, dtype=np.float64)[~skipped] for values in (first, second))
        return compare_pairs(first, second, seed)

    def value_of(self, value) -> float:
        """The number of one clip."""
        return float(value)


@dataclass(frozen=True)
class RateColumn:
    """
    A corpus rate of words: errors are summed over clips and divided once.

    Args:
        label (`str`): Heading, with the direction that is better.
        digits (`int`): Decimals printed.
        rate (`str`): `"wer"` or `"wil"`.
    """

    label: str
    digits: int
    rate: str

    def summarize(self, values, skipped: np.ndarray, seed: int) -> dict:
        """
        Args:
            values (sequence [N]): One [`~hf_affectcodec.metrics.word_errors.WordErrors`] a clip, `None` where it failed.
            skipped, seed: As in [`MeanColumn.summarize`].
        """
        from hf_affectcodec.metrics.word_errors import corpus_wer_interval, corpus_wil_interval, corpus_word_errors

        wanted = [value for value, skip in zip(values, skipped, strict=True) if not skip]
        errors = [value for value in wanted if value is not None]
        interval = {"wer": corpus_wer_interval, "wil": corpus_wil_interval}[self.rate]
        low, high = interval(errors, seed) if len(errors) > 1 else (math.nan, math.nan)
        rate = self.value_of(corpus_word_errors(errors)) if errors else math.nan
        summary = Summary(n=len(errors), n_failed=len(wanted) - len(errors), mean=rate, low=low, high=high)
        return {**asdict(summary), "n_skipped": int(skipped.sum())}

    def compare(self, first, second, skipped: np.ndarray, seed: int) -> dict:
        """As [`MeanColumn.compare`], by [`~hf_affectcodec.metrics.word_errors.corpus_rate_difference`]."""
        from hf_affectcodec.metrics.word_errors import corpus_rate_difference

        pairs = [
            (a, b)
            for a, b, skip in zip(first, second, skipped, strict=True)
            if not skip and a is not None and b is not None
        ]
        if len(pairs) < 2:
            return {"n": len(pairs), **dict.fromkeys(("difference", "low", "high", "p"), math.nan)}
        first, second = zip(*pairs, strict=True)
        return {"n": len(pairs), **asdict(corpus_rate_difference(first, second, self.rate, seed))}

    def value_of(self, value) -> float:
        """The rate of one clip, NaN where it failed."""
        return math.nan if value is None else getattr(value, self.rate)


@dataclass(frozen=True)
class FigureColumn:
    """
    One number of a system as a whole, without interval and without a value a clip.

    Args:
        label (`str`): Heading.
        digits (`int`): Decimals printed.
    """

    label: str
    digits: int


@dataclass(frozen=True)
class Evaluated:
    """
    What one system got in the columns of a group.

    Args:
        values (`dict`): For each mean or rate column, one value a clip.
        skipped (`dict`): For those of them with clips on which there was nothing to measure, bool [N].
        figures (`dict`): For figure columns the number (NaN: could not be measured).
    """

    values: dict
    skipped: dict
    figures: dict
