"""From answers to what may be said of them: means, intervals, differences."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .answers import METHODS, Answer
from .screening import MIN_ATTENTION, as_rows, screen_listeners
from .statistics import holm, score_matrix, two_way_interval, two_way_test


try:
    from scipy.stats import binomtest
except ImportError as error:
    raise ImportError("Listening tests need the package `scipy`: pip install 'hf-affectcodec[eval]'") from error


def analyse(
    answers: Sequence[Answer],
    min_attention: float = MIN_ATTENTION,
    min_agreement: float | None = None,
    seed: int = 0,
) -> dict:
    """
    Args:
        answers (sequence of [`~.answers.Answer`]): Of any number of tests.
        min_attention (`float`, *optional*, defaults to 0.75): See [`~.screening.screen_listeners`].
        min_agreement (`float`, *optional*): Likewise.
        seed (`int`, *optional*, defaults to 0): Of bootstraps and permutations.

    Returns:
        `dict`: `settings`, and for each of `tests` its `method`, `listeners` (who counts, and why others do not),
        `num_listeners`, `num_excluded`, `num_clips`, `num_answers`, and

        - of ratings, `systems` (for each `role`, `n`, `mean` with `low` and `high`, `median`, `first_quartile`,
          `third_quartile`) and `pairs` (`first`, `second`, `difference` with `low` and `high`, `p_listeners`, `p_clips`,
          `p`, the larger of both, and `p_holm`);
        - of comparisons, `pairs`, the better one `first`, with `difference` being the mean score in its favour, `share`
          (preferring `first`, `neither`, `second`), and `position`: the share of answers other than 0 that prefer what
          was heard second, with the p of an exact binomial test against a half.

        A test whose listeners were all left out has no systems and no pairs.
    """
    tests = {}
    for name in dict.fromkeys(answer.test for answer in answers):
        own = [answer for answer in answers if answer.test == name]
        screenings = screen_listeners(own, min_attention, min_agreement)
        kept = {item.listener for item in screenings if not item.reasons}
        counted = [answer for answer in own if answer.listener in kept and answer.role != "attention"]
        method = own[0].method
        tests[name] = {
            "method": method,
            "num_listeners": len(kept),
            "num_excluded": len(screenings) - len(kept),
            "num_clips": len({answer.clip for answer in counted}),
            "num_answers": len(counted),
            "listeners": as_rows(screenings),
            **(_comparisons(counted, seed) if METHODS[method].paired else _ratings(counted, seed)),
        }
    settings = {"min_attention": min_attention, "min_agreement": min_agreement, "seed": seed}
    return {"settings": settings, "tests": tests}


def _ratings(answers: Sequence[Answer], seed: int) -> dict:
    listeners, clips = (sorted({getattr(answer, key) for answer in answers}) for key in ("listener", "clip"))
    roles = {answer.system: answer.role for answer in answers}
    matrices, systems = {}, {}
    for system in roles:
        own = [answer for answer in answers if answer.system == system]
        if len({answer.role for answer in own}) > 1:
            raise ValueError(f"`role`: {system!r} has several, {sorted({answer.role for answer in own})}")
        matrices[system] = score_matrix([(item.listener, item.clip, item.score) for item in own], listeners, clips)
        first, median, third = np.percentile([item.score for item in own], [25, 50, 75])
        low, high = two_way_interval(matrices[system], seed=seed)
        systems[system] = {
            "role": roles[system],
            "n": len(own),
            "mean": float(np.nanmean(matrices[system])),
            "low": low,
            "high": high,
            "median": float(median),
            "first_quartile": float(first),
            "third_quartile": float(third),
            "listener_means": [round(float(value), 4) for value in _listener_means(matrices[system])],
        }
    systems = dict(sorted(systems.items(), key=lambda item: -item[1]["mean"]))
    pairs = []
    for one, other in combinations(systems, 2):
        low, high = two_way_interval(matrices[one], matrices[other], seed=seed)
        pairs.append(
            {
                "first": one,
                "second": other,
                "difference": systems[one]["mean"] - systems[other]["mean"],
                "low": low,
                "high": high,
                **_tests(matrices[one], matrices[other], seed),
            }
        )
    return {"systems": systems, "pairs": _corrected(pairs)}


def _listener_means(scores: np.ndarray) -> list[float]:
    return [float(np.nanmean(row)) for row in scores if not np.isnan(row).all()]


def _comparisons(answers: Sequence[Answer], seed: int) -> dict:
    listeners, clips = (sorted({getattr(answer, key) for answer in answers}) for key in ("listener", "clip"))
    order = list(dict.fromkeys(name for answer in answers for name in (answer.system, answer.system_b)))
    pairs = []
    for one, other in combinations(order, 2):
        own = [answer for answer in answers if {answer.system, answer.system_b} == {one, other}]
        if not own:
            continue
        # In favour of `one`: a positive score prefers what was heard second.
        favour = [item.score if item.system_b == one else -item.score for item in own]
        if np.mean(favour) < 0:
            one, other, favour = other, one, [-value for value in favour]
        matrix = score_matrix(
            [(item.listener, item.clip, value) for item, value in zip(own, favour, strict=True)], listeners, clips
        )
        low, high = two_way_interval(matrix, seed=seed)
        pairs.append(
            {
                "first": one,
                "second": other,
                "n": len(own),
                "difference": float(np.nanmean(matrix)),
                "low": low,
                "high": high,
                "share": {
                    "first": float(np.mean([value > 0 for value in favour])),
                    "neither": float(np.mean([value == 0 for value in favour])),
                    "second": float(np.mean([value < 0 for value in favour])),
                },
                **_tests(matrix, np.where(np.isnan(matrix), np.nan, 0.0), seed),
            }
        )
    decided = [answer.score > 0 for answer in answers if answer.score != 0]
    position = {
        "n": len(decided),
        "second": float(np.mean(decided)) if decided else math.nan,
        "p": float(binomtest(sum(decided), len(decided)).pvalue) if decided else math.nan,
    }
    return {"pairs": _corrected(pairs), "position": position}


def _tests(first: np.ndarray, second: np.ndarray, seed: int) -> dict:
    by_listeners, by_clips = two_way_test(first, second, seed)
    return {"p_listeners": by_listeners, "p_clips": by_clips, "p": float(np.maximum(by_listeners, by_clips))}


def _corrected(pairs: list[dict]) -> list[dict]:
    """With `p_holm`; pairs without p are not counted as tests."""
    tested = [pair for pair in pairs if not math.isnan(pair["p"])]
    corrected = iter(holm([pair["p"] for pair in tested]))
    return [{**pair, "p_holm": math.nan if math.isnan(pair["p"]) else next(corrected)} for pair in pairs]
