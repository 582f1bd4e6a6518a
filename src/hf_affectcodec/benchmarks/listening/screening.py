"""
Which listeners' answers count: attention checks, the post-screening of MUSHRA, and agreement with the others.

Rules are fixed before anyone looks at results, and every table says who was left out and by which rule.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .answers import Answer


MIN_ATTENTION = 0.75  # share of attention checks to be passed
# ITU-R BS.1534-3: a listener is left out who rates the hidden reference below 90, or the mid anchor above 90, on more than
# 15 % of the items; the anchor does not count on items where more than 25 % of all listeners rate it above 90.
TRANSPARENT = 90
MAX_SHARE = 0.15
MAX_SHARE_OF_LISTENERS = 0.25


@dataclass(frozen=True)
class ListenerScreening:
    """
    Args:
        listener (`str`): Who.
        num_answers (`int`): Answers, attention checks not counted.
        attention (`float`): Share of attention checks passed, NaN without any.
        reference_below_90, mid_anchor_above_90 (`float`): Shares of items (MUSHRA), NaN without such answers.
        agreement (`float`): Correlation of the scores with the mean of the other listeners' scores of the same clips and
            systems, NaN with fewer than 3 in common or without variation. Always reported, a rule only where asked for.
        reasons (`list[str]`): Why the listener is left out; empty for one whose answers count.
    """

    listener: str
    num_answers: int
    attention: float
    reference_below_90: float
    mid_anchor_above_90: float
    agreement: float
    reasons: list[str]


def _share(values: list[bool]) -> float:
    return float(np.mean(values)) if values else math.nan


def _agreement(answers: Sequence[Answer]) -> dict[str, float]:
    """Of each listener; of paired comparisons the two orders of a pair are brought to one."""
    stimuli = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        systems, sign = (answer.system, answer.system_b), 1
        if answer.system_b is not None and answer.system_b < answer.system:
            systems, sign = systems[::-1], -1
        stimuli[answer.clip, systems][answer.listener].append(sign * answer.score)
    own, others = defaultdict(list), defaultdict(list)
    for by_listener in stimuli.values():
        means = {listener: np.mean(scores) for listener, scores in by_listener.items()}
        total = sum(means.values())
        for listener, mean in means.items():
            if len(means) > 1:
                own[listener].append(mean)
                others[listener].append((total - mean) / (len(means) - 1))
    found = {}
    for listener, scores in own.items():
        varies = len(scores) >= 3 and np.ptp(scores) > 0 and np.ptp(others[listener]) > 0
        found[listener] = float(np.corrcoef(scores, others[listener])[0, 1]) if varies else math.nan
    return found


def screen_listeners(
    answers: Sequence[Answer], min_attention: float = MIN_ATTENTION, min_agreement: float | None = None
) -> list[ListenerScreening]:
    """
    Args:
        answers (sequence of [`Answer`]): Of one test.
        min_attention (`float`, *optional*, defaults to 0.75): Share of attention checks that has to be passed.
        min_agreement (`float`, *optional*): Least correlation with the other listeners. Off by default: it leaves out
            who hears differently, not only who does not listen. .25 is a value for crowds (Ribeiro et al., 2011).

    Returns:
        `list[ListenerScreening]`: One a listener, sorted by name.
    """
    listeners = sorted({answer.listener for answer in answers})
    scored = [answer for answer in answers if answer.role != "attention"]
    # The rules of the recommendation are in points of MUSHRA's scale.
    mushra = [answer for answer in scored if answer.method == "mushra"]
    above = defaultdict(list)
    for answer in mushra:
        if answer.role == "mid_anchor":
            above[answer.clip].append(answer.score > TRANSPARENT)
    counted = {clip for clip, values in above.items() if _share(values) <= MAX_SHARE_OF_LISTENERS}
    agreements = _agreement(scored)
    screenings = []
    for listener in listeners:
        own = [answer for answer in answers if answer.listener == listener]
        rated = [answer for answer in mushra if answer.listener == listener]
        attention = _share(
            [item.expected_low <= item.score <= item.expected_high for item in own if item.role == "attention"]
        )
        reference = _share([item.score < TRANSPARENT for item in rated if item.role == "hidden_reference"])
        anchor = _share(
            [item.score > TRANSPARENT for item in rated if item.role == "mid_anchor" and item.clip in counted]
        )
        agreement = agreements.get(listener, math.nan)
        reasons = []
        if attention < min_attention:
            reasons.append(f"passed {attention:.0%} of the attention checks")
        if reference > MAX_SHARE:
            reasons.append(f"hidden reference below {TRANSPARENT} on {reference:.0%} of the items")
        if anchor > MAX_SHARE:
            reasons.append(f"mid anchor above {TRANSPARENT} on {anchor:.0%} of the items")
        if min_agreement is not None and not agreement >= min_agreement:
            reasons.append(f"correlation with the other listeners {agreement:.2f}")
        num_answers = sum(item.role != "attention" for item in own)
        screenings.append(ListenerScreening(listener, num_answers, attention, reference, anchor, agreement, reasons))
    return screenings


def as_rows(screenings: Sequence[ListenerScreening]) -> list[dict]:
    """For JSON."""
    return [asdict(item) for item in screenings]
