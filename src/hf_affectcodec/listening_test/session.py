"""
The pages of one listener. They follow from the plan and the listener's code alone, so that a session can be broken off
and gone on with, on another machine too.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hf_affectcodec.benchmarks.listening.answers import METHODS, Answer

from .plan import ORIGINAL, Plan, Test
from .stimuli import REFERENCE


ATTENTION_TOLERANCE = 5  # points on the scale of MUSHRA


@dataclass(frozen=True)
class Stimulus:
    """A recording on a page: which system, and its role (see [`~hf_affectcodec.benchmarks.listening.answers`])."""

    system: str
    role: str = "system"


@dataclass(frozen=True)
class Page:
    """
    Args:
        test (`str`): Name of the test in the plan.
        clip (`str`): What is heard.
        stimuli (`tuple[Stimulus]`): In the order on the page; two of a comparison.
        training (`bool`): Answers are not kept.
        expected (`tuple[float, float]`, *optional*): An attention check: the right answers are from one to the other.
    """

    test: str
    clip: str
    stimuli: tuple[Stimulus, ...]
    training: bool = False
    expected: tuple[float, float] | None = None


def session_pages(plan: Plan, code: str) -> list[Page]:
    """
    Test by test: training first, then pages in the listener's own order with attention checks in between.

    In comparisons each system of a pair comes first on half of the pair's pages (rounded).
    """
    pages = []
    for name, test in plan.tests.items():
        # A string, as its hash by Python would be another in the next process.
        rng = random.Random(f"{plan.seed}/{name}/{code}")
        clips = list(test.clips)
        if test.clips_per_listener is not None:
            chosen = set(rng.sample(clips, test.clips_per_listener))
            clips = [clip for clip in clips if clip in chosen]
        rated = _rated_pages(name, test, clips, rng, training=False)
        if test.order == "random":
            rng.shuffle(rated)
        for _ in range(test.attention_checks):
            # Neither first nor last, where there is a between.
            position = rng.randint(min(1, len(rated)), max(len(rated) - 1, min(1, len(rated))))
            rated.insert(position, _attention_page(name, test, clips, rng))
        pages += _rated_pages(name, test, test.training, rng, training=True) + rated
    return pages


def _rated_pages(name: str, test: Test, clips: Sequence[str], rng: random.Random, training: bool) -> list[Page]:
    pages = []
    if test.method == "mushra":
        roles = [Stimulus(system) for system in test.systems] + [Stimulus(ORIGINAL, "hidden_reference")]
        roles += [Stimulus(f"{part}_anchor", f"{part}_anchor") for part in test.anchors]
        for clip in clips:
            stimuli = list(roles)
            if test.order == "random":
                rng.shuffle(stimuli)
            pages.append(Page(name, clip, tuple(stimuli), training))
    elif METHODS[test.method].paired:
        for pair in test.pairs:
            swapped = [bool(index % 2) for index in range(len(clips))]
            if test.order == "random":
                first = rng.random() < 0.5
                swapped = [swap != first for swap in swapped]
                rng.shuffle(swapped)
            for clip, swap in zip(clips, swapped, strict=True):
                order = pair[::-1] if swap else pair
                pages.append(Page(name, clip, tuple(Stimulus(system) for system in order), training))
    else:
        pages = [Page(name, clip, (Stimulus(system),), training) for clip in clips for system in test.systems]
    return pages


def _attention_page(name: str, test: Test, clips: Sequence[str], rng: random.Random) -> Page:
    method = METHODS[test.method]
    if test.method == "mushra":
        target = rng.choice([10, 30, 70, 90])
        expected = (target - ATTENTION_TOLERANCE, target + ATTENTION_TOLERANCE)
    else:
        target = rng.randint(int(method.low), int(method.high))
        expected = (target, target)
    count = 2 if method.paired else 1
    return Page(name, rng.choice(clips), (Stimulus(REFERENCE, "attention"),) * count, False, expected)


def next_page(pages: Sequence[Page], answered: set[int]) -> int:
    """The index of the page that a listener who answered those goes on with; `len(pages)` if nothing is left."""
    left = [index for index, page in enumerate(pages) if index not in answered and not page.training]
    index = left[0] if left else len(pages)
    # Training is repeated by who comes back before the first page after it.
    while left and index and pages[index - 1].training:
        index -= 1
    return index


def check_scores(page: Page, method: str, scores) -> list[float]:
    """
    One score a stimulus, or one for a comparison, as numbers on the method's scale.

    Raises:
        ValueError: naming `scores`.
    """
    scale = METHODS[method]
    count = 1 if scale.paired else len(page.stimuli)
    if not isinstance(scores, list) or len(scores) != count:
        raise ValueError(f"`scores` must be a list of {count}")
    for score in scores:
        right = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        if not right or not scale.low <= score <= scale.high or (method != "mushra" and score != int(score)):
            raise ValueError(f"`scores` must be {scale.low:g} to {scale.high:g}, got {score!r}")
    return scores


def page_rows(plan: Plan, code: str, number: int, page: Page, scores: Sequence[float]) -> list[dict]:
    """
    The answers of a page as rows of a data set.

    Args:
        plan ([`Plan`]), code (`str`): Whose.
        number (`int`): Of the page, from 0.
        page ([`Page`]): It.
        scores (sequence of `float`): See [`check_scores`].

    Returns:
        `list[dict]`: The columns of [`~hf_affectcodec.benchmarks.listening.answers`], and `page` (the number), `position`
        (on the page, from 1) and `plan` (its fingerprint).
    """
    method = plan.tests[page.test].method
    common = {"test": page.test, "method": method, "listener": code, "trial": str(number), "clip": page.clip}
    if page.expected is not None:
        low, high = page.expected
        answers = [
            Answer(
                **common, system="attention", score=scores[0], role="attention", expected_low=low, expected_high=high
            )
        ]
    elif METHODS[method].paired:
        first, second = page.stimuli
        answers = [Answer(**common, system=first.system, system_b=second.system, score=scores[0])]
    else:
        answers = [
            Answer(**common, system=stimulus.system, role=stimulus.role, score=score)
            for stimulus, score in zip(page.stimuli, scores, strict=True)
        ]
    # All columns in every row, so that a data set has one schema.
    extra = {"page": number, "plan": plan.fingerprint}
    return [{**asdict(answer), "position": index, **extra} for index, answer in enumerate(answers, start=1)]
