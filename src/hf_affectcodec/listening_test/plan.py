"""
The plan of a listening test: one YAML file.

    title: Rebuilt telephone prompts
    introduction: |                  # Markdown, shown before the start
      You will hear ...
    seed: 0                          # of every listener's order, with their code
    sampling_rate: 16000             # of all recordings, Hz
    max_listeners: 1000
    answers_repo: org/name           # a data set on the Hub that answers are pushed to; default: none
    clips:
      sorry: {file: clips/sorry.flac, start: 0.0, stop: 1.5, text: I am sorry., emotion: neutral}
    systems: {mine: "rebuilt/{clip}.wav"}          # recordings that are there
    models: {affectcodec-mini: null}               # codecs that are run when the page starts, as in
    baselines: [opus-6]                            # `benchmarks.evaluate_codec`
    tests:
      quality:
        method: mushra               # mushra | mos | emotion_mos | ab | cmos
        question: How good is it?    # default by method; {text} and {emotion} are the clip's
        systems: [mine, opus-6]      # default: all; `original` is the clip itself (not in mushra, which always has it)
        clips: [sorry]               # default: all
        clips_per_listener: 1        # a random part of them; default: all
        anchors: {low: 3500, mid: 7000}            # mushra: cut-off frequencies in Hz; default: none
        training: [sorry]            # clips of pages whose answers are not kept; default: none
        attention_checks: 1          # pages that say what to answer; default: 0
        order: random                # of pages and of recordings on them; or `given`
      preference:
        method: ab
        pairs: [[mine, opus-6]]      # ab, cmos; default: all pairs of `systems`

Paths are relative to the file. Tests are taken in the order given.
"""

import hashlib
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path

import yaml

from hf_affectcodec.audio import MAX_RATE, MIN_RATE
from hf_affectcodec.benchmarks.listening.answers import METHODS
from hf_affectcodec.settings import build_dataclass, read_yaml


ORIGINAL = "original"  # the system that is the clip itself
RESERVED = {ORIGINAL, "reference", "low_anchor", "mid_anchor", "attention"}
QUESTIONS = {
    "mushra": "How good is each recording, compared with the reference?",
    "mos": "How good is this recording?",
    "emotion_mos": "How well does this recording sound like the emotion “{emotion}”?",
    "ab": "Which recording do you prefer?",
    "cmos": "How good is the second recording, compared with the first?",
}


def _check(condition: bool, key: str, wanted: str, value) -> None:
    if not condition:
        raise ValueError(f"`{key}` must be {wanted}, got {value!r}")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_names(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value) and len(set(value)) == len(value)


@dataclass(frozen=True)
class Clip:
    """
    Args:
        file (`str`, *optional*): The original; needed by mushra, models, baselines and the system `original`.
        start, stop (`float`, *optional*): The part of it to take, in seconds.
        text (`str`, *optional*): What is said, for `{text}` in questions.
        emotion (`str`, *optional*): For `{emotion}` in questions.
    """

    file: str | None = None
    start: float | None = None
    stop: float | None = None
    text: str | None = None
    emotion: str | None = None


@dataclass(frozen=True)
class Test:
    """One method with its question; the module has the fields."""

    __test__ = False  # no pytest class

    method: str
    question: str | None = None
    systems: list[str] | None = None
    pairs: list[list[str]] | None = None
    clips: list[str] | None = None
    clips_per_listener: int | None = None
    anchors: dict[str, float] = field(default_factory=dict)
    training: list[str] = field(default_factory=list)
    attention_checks: int = 0
    order: str = "random"


@dataclass(frozen=True)
class Plan:
    """
    What [`read_plan`] reads, complete: tests have their question, systems, pairs and clips.

    Args:
        folder (`Path`): That paths are relative to.
        fingerprint (`str`): Of the file; answers carry it, as another plan has other orders.
    """

    folder: Path
    fingerprint: str
    title: str
    clips: dict[str, Clip]
    tests: dict[str, Test]
    introduction: str = ""
    seed: int = 0
    sampling_rate: int = 16000
    max_listeners: int = 1000
    answers_repo: str | None = None
    systems: dict[str, str] = field(default_factory=dict)
    models: dict = field(default_factory=dict)
    baselines: list[str] = field(default_factory=list)


def read_plan(path: "str | Path") -> Plan:
    """
    Raises:
        ValueError: One line that names the key and what it must be.
        OSError: The file cannot be read.
    """
    path = Path(path)
    try:
        values = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from error
    for name in ("folder", "fingerprint"):
        _check(name not in values, name, "left out", values.get(name))
    for name in ("clips", "tests"):
        _check(isinstance(values.get(name), dict) and values[name], name, "a mapping of names", values.get(name))
    clips = {name: _clip(name, entry) for name, entry in values.pop("clips").items()}
    tests = values.pop("tests")
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    fixed = {"folder": path.parent, "fingerprint": fingerprint, "clips": clips, "tests": {}}
    _check(isinstance(values.get("title"), str), "title", "a text", values.get("title"))
    known = {item.name for item in fields(Plan)} - set(fixed)
    unknown = sorted(str(key) for key in set(values) - known)
    if unknown:
        raise ValueError(f"unknown key `{unknown[0]}`; known keys are {sorted(known | {'clips', 'tests'})}")
    plan = Plan(**fixed, **values)
    _check_plan(plan)
    plan.tests.update({name: _complete(plan, name, entry) for name, entry in tests.items()})
    return plan


def _clip(name, entry) -> Clip:
    key = f"clips.{name}"
    _check(isinstance(name, str), "clips", "named by texts", name)
    _check(isinstance(entry, dict), key, "a mapping", entry)
    clip = build_dataclass(Clip, entry, f"`{key}`")
    for part in ("file", "text", "emotion"):
        value = getattr(clip, part)
        _check(value is None or isinstance(value, str), f"{key}.{part}", "a text", value)
    for part in ("start", "stop"):
        value = getattr(clip, part)
        _check(value is None or (_is_number(value) and value >= 0), f"{key}.{part}", "seconds", value)
    return clip


def _check_plan(plan: Plan) -> None:
    _check(isinstance(plan.introduction, str), "introduction", "a text", plan.introduction)
    _check(_is_count(plan.seed, 0), "seed", "a whole number of at least 0", plan.seed)
    _check(_is_count(plan.max_listeners, 1), "max_listeners", "a whole number of at least 1", plan.max_listeners)
    in_range = _is_count(plan.sampling_rate, MIN_RATE) and plan.sampling_rate <= MAX_RATE
    _check(in_range, "sampling_rate", f"{MIN_RATE} to {MAX_RATE} Hz", plan.sampling_rate)
    is_repo = plan.answers_repo is None or (isinstance(plan.answers_repo, str) and plan.answers_repo.count("/") == 1)
    _check(is_repo, "answers_repo", "org/name", plan.answers_repo)
    for key in ("systems", "models"):
        _check(isinstance(getattr(plan, key), dict), key, "a mapping of names", getattr(plan, key))
    for name, template in plan.systems.items():
        is_template = isinstance(template, str) and "{clip}" in template
        _check(is_template, f"systems.{name}", "a path with {clip} in it", template)
    _check(_is_names(plan.baselines), "baselines", "a list of different names", plan.baselines)
    names = [*plan.systems, *plan.models, *plan.baselines]
    for name in names:
        _check(
            isinstance(name, str) and name not in RESERVED, "systems", f"named otherwise than {sorted(RESERVED)}", name
        )
        _check(names.count(name) == 1, "systems", "of different names, models and baselines counted", name)


def _complete(plan: Plan, name, entry) -> Test:
    """The test `name` with what it leaves out filled in."""
    key = f"tests.{name}"
    _check(isinstance(name, str), "tests", "named by texts", name)
    _check(isinstance(entry, dict), key, "a mapping", entry)
    _check(entry.get("method") in list(METHODS), f"{key}.method", f"one of {list(METHODS)}", entry.get("method"))
    method = entry["method"]
    paired = METHODS[method].paired
    every = [*plan.systems, *plan.models, *plan.baselines]
    named = [pair for pair in entry.get("pairs") or [] if isinstance(pair, list)]
    defaults = {
        "question": QUESTIONS[method],
        "systems": list(dict.fromkeys(item for pair in named for item in pair)) or every,
        "clips": list(plan.clips),
    }
    test = build_dataclass(Test, {**defaults, **entry}, f"`{key}`")

    _check(isinstance(test.question, str), f"{key}.question", "a text", test.question)
    choices = every if method == "mushra" else [ORIGINAL, *every]
    for part, allowed in (("systems", choices), ("clips", list(plan.clips)), ("training", list(plan.clips))):
        value = getattr(test, part)
        right = _is_names(value) and set(value) <= set(allowed) and (value or part == "training")
        _check(right, f"{key}.{part}", f"a list out of {allowed}", value)
    _check(_is_count(test.attention_checks, 0), f"{key}.attention_checks", "a whole number", test.attention_checks)
    _check(test.order in ("random", "given"), f"{key}.order", "random or given", test.order)
    if test.clips_per_listener is not None:
        right = _is_count(test.clips_per_listener, 1) and test.clips_per_listener <= len(test.clips)
        _check(right, f"{key}.clips_per_listener", f"1 to {len(test.clips)}", test.clips_per_listener)

    _check(isinstance(test.anchors, dict), f"{key}.anchors", "a mapping of low and mid", test.anchors)
    _check(not test.anchors or method == "mushra", f"{key}.anchors", "left out: they are of mushra", test.anchors)
    for part, cutoff in test.anchors.items():
        _check(part in ("low", "mid"), f"{key}.anchors", "low and mid", part)
        right = _is_number(cutoff) and 0 < cutoff < plan.sampling_rate / 2
        _check(right, f"{key}.anchors.{part}", f"between 0 and {plan.sampling_rate / 2:g} Hz", cutoff)

    _check(test.pairs is None or paired, f"{key}.pairs", "left out: it is of ab and cmos", test.pairs)
    if paired:
        pairs = [list(pair) for pair in combinations(test.systems, 2)] if test.pairs is None else test.pairs
        right = isinstance(pairs, list) and pairs
        right = right and all(_is_names(pair) and len(pair) == 2 and set(pair) <= set(test.systems) for pair in pairs)
        _check(right, f"{key}.pairs", f"pairs out of {test.systems}", pairs)
        test = Test(**{**vars(test), "pairs": pairs})

    needs_original = method == "mushra" or bool({ORIGINAL, *plan.models, *plan.baselines} & set(test.systems))
    for clip in dict.fromkeys([*test.clips, *test.training]):
        if needs_original or test.attention_checks:
            _check(plan.clips[clip].file is not None, f"clips.{clip}.file", f"given: {key} needs the original", None)
        for part in ("text", "emotion"):
            wanted = f"{{{part}}}" in test.question
            given = getattr(plan.clips[clip], part)
            _check(not wanted or given is not None, f"clips.{clip}.{part}", f"given: {key}.question has it", given)
    return test
