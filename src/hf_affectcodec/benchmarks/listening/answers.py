"""
Answers of listeners: what a listening test writes and `python -m hf_affectcodec.benchmarks.listening` reads.

A file of JSON lines, or Parquet with the same columns, one answer (one score for one stimulus) a row:

    test         name of the test; a file may hold several
    method       mushra | mos | emotion_mos | ab | cmos, the same for all answers of a test
    listener     who answered: any text that is the same for one person
    trial        the page that the answer was given on; one listener answers each stimulus of a trial once
    clip         the sentence or recording, the same for all systems
    system       what was heard
    score        see below
    role         system (default) | hidden_reference | low_anchor | mid_anchor | attention
    system_b     ab, cmos: what was heard second, against `system`, which was heard first
    expected_low, expected_high
                 role attention: the answer is right where it is from one to the other, both included

| method | score | of |
|---|---|---|
| mushra | 0 to 100 | ITU-R BS.1534: quality beside an open reference, with hidden reference and anchors on the page |
| mos | 1 to 5 | ITU-T P.800: quality of one recording |
| emotion_mos | 1 to 5 | how well the recording has the emotion asked for |
| ab | -1, 0, 1 | -1: `system` is preferred; 1: `system_b`; 0: neither |
| cmos | -3 to 3 | ITU-T P.800 annex E: `system_b` is much worse (-3) to much better (3) than `system` |

Other columns (a time, the seed of the order, ...) may be there and are not read.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Method:
    """
    Args:
        title (`str`): In a table.
        low, high (`float`): Ends of the scale.
        paired (`bool`): Whether a score compares two systems.
        whole (`bool`): Whether only whole numbers are answers.
    """

    title: str
    low: float
    high: float
    paired: bool = False
    whole: bool = False


METHODS = {
    "mushra": Method("MUSHRA", 0, 100),
    "mos": Method("MOS", 1, 5),
    "emotion_mos": Method("Emotion-MOS", 1, 5),
    "ab": Method("AB preference", -1, 1, paired=True, whole=True),
    "cmos": Method("CMOS", -3, 3, paired=True),
}
ROLES = ("system", "hidden_reference", "low_anchor", "mid_anchor", "attention")


@dataclass(frozen=True)
class Answer:
    """One row; see the module."""

    test: str
    method: str
    listener: str
    trial: str
    clip: str
    system: str
    score: float
    role: str = "system"
    system_b: str | None = None
    expected_low: float | None = None
    expected_high: float | None = None

    def __post_init__(self):
        for name in ("test", "method", "listener", "trial", "clip", "system"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"`{name}` must be a text, got {value!r}")
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {sorted(METHODS)}, got {self.method!r}")
        if self.role not in ROLES:
            raise ValueError(f"`role` must be one of {list(ROLES)}, got {self.role!r}")
        method = METHODS[self.method]
        for name in ("score", "expected_low", "expected_high"):
            value = getattr(self, name)
            if value is None and name != "score":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"`{name}` must be a number, got {value!r}")
        if not method.low <= self.score <= method.high or (method.whole and self.score != int(self.score)):
            whole = " and whole" if method.whole else ""
            raise ValueError(
                f"`score` must be {method.low} to {method.high}{whole} for {self.method}, got {self.score}"
            )
        if self.role == "attention":
            if self.expected_low is None or self.expected_high is None or self.expected_low > self.expected_high:
                raise ValueError("`role` attention needs `expected_low` <= `expected_high`")
        elif method.paired:
            if self.role != "system" or not self.system_b or self.system_b == self.system:
                raise ValueError(
                    f"`system_b`: {self.method} compares two systems, got {self.system!r}, {self.system_b!r}"
                )
        elif self.system_b is not None:
            raise ValueError(f"`system_b` must not be given for {self.method}")


def read_answers(path: "str | Path") -> list[Answer]:
    """
    Reads a file of answers; one whose name ends in `.parquet` as Parquet, any other as JSON lines.

    Raises:
        ValueError: The file is empty, or a row is no answer; the message has the number of the row and what is wrong.
            Or a test has two methods, or a listener answered a stimulus of a trial twice (a form sent twice).
    """
    path = Path(path)
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise ImportError("Parquet needs the package `pyarrow`: pip install 'hf-affectcodec[eval]'") from error
        rows = list(enumerate(parquet.read_table(path).to_pylist(), start=1))
    else:
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                try:
                    rows.append((number, json.loads(line)))
                except ValueError as error:
                    raise ValueError(f"{path.name}, row {number}: not JSON ({error})") from error
    if not rows:
        raise ValueError(f"{path.name} holds no answers")

    names = [item.name for item in fields(Answer)]
    answers, methods, seen = [], {}, {}
    for number, row in rows:
        try:
            if not isinstance(row, dict):
                raise ValueError("not a mapping")
            missing = [name for name in names[:7] if row.get(name) is None]
            if missing:
                raise ValueError(f"`{missing[0]}` is missing")
            answer = Answer(**{name: row[name] for name in names if row.get(name) is not None})
            if methods.setdefault(answer.test, answer.method) != answer.method:
                raise ValueError(f"`method`: the test {answer.test!r} is {methods[answer.test]}, not {answer.method}")
            key = (
                answer.test,
                answer.listener,
                answer.trial,
                answer.clip,
                answer.system,
                answer.system_b,
                answer.role,
            )
            if key in seen:
                raise ValueError(f"the same stimulus of the same trial as row {seen[key]}")
        except ValueError as error:
            raise ValueError(f"{path.name}, row {number}: {error}") from error
        seen[key] = number
        answers.append(answer)
    return answers
