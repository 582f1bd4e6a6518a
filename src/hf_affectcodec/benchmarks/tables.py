"""From rows to a table: numbers, JSON and Markdown."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .columns.kinds import FigureColumn
from .measuring import ColumnGroup
from .rows import dump


SHARED_STAGES = ("clip", "codec", "reference")  # of failures before anything is measured: in the rows of every group
REASONS = 3  # reasons of failure printed for each stage; all of them are in table.json


def tabulate(
    systems: Sequence,
    groups: Sequence[ColumnGroup],
    rows: dict[str, list[list[dict]]],
    protocol: dict,
    compare_to: str | None = None,
    seed: int = 0,
    references: dict[str, list[dict]] | None = None,
) -> dict:
    """
    Args:
        systems (sequence): The systems, with `name` and `fingerprint`.
        groups (sequence of [`~.measuring.ColumnGroup`]): What was measured.
        rows (`dict`): As [`~.measuring.measure_all`] returns them.
        protocol (`dict`): What is printed below the table.
        compare_to (`str`, *optional*): Name of the system that each other one is tested against, clip by clip.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap and of the permutations.
        references (`dict`, *optional*): For groups whose `reference` is none of the systems, its rows.

    Returns:
        `dict`: The table, ready for JSON but for NaN: `columns` (label, digits and group of each), `groups` (title and
            anchors), and for each of `systems` its cells in `metrics` (a column that it does not have is not there) and
            `failures`, counts by stage (`clip`, `codec` or a column) and reason.

    Raises:
        ValueError: `compare_to` is no system of the table.
    """
    names = [system.name for system in systems]
    if compare_to is not None and compare_to not in names:
        raise ValueError(f"`compare_to` must be one of {names}, got {compare_to!r}")
    by_name = {group.name: dict(zip(names, rows[group.name], strict=True)) for group in groups}
    references = _references(groups, by_name, references)
    evaluated = {
        name: {group.name: group.evaluate(by_name[group.name][name], references[group.name], seed) for group in groups}
        for name in names
    }
    return {
        "protocol": protocol,
        "seed": seed,
        "n_clips": len(rows[groups[0].name][0]),
        "columns": {
            name: {"label": column.label, "digits": column.digits, "group": group.name}
            for group in groups
            for name, column in group.columns.items()
        },
        "groups": {
            group.name: {"title": group.title, "anchors": group.anchors(references[group.name], seed)}
            for group in groups
        },
        "systems": {
            system.name: {
                "fingerprint": system.fingerprint,
                "metrics": {
                    column: cell
                    for group in groups
                    for column, cell in _cells(group, evaluated[system.name][group.name], seed).items()
                },
                "failures": _failures([row for group in groups for row in by_name[group.name][system.name]], groups),
            }
            for system in systems
        },
        "compare_to": compare_to,
        "comparisons": {
            name: {
                column: cell
                for group in groups
                for column, cell in _comparisons(
                    group, evaluated[name][group.name], evaluated[compare_to][group.name], seed
                ).items()
            }
            for name in (names if compare_to is not None else [])
            if name != compare_to
        },
    }


def _references(groups: Sequence[ColumnGroup], by_name: dict, given: dict | None) -> dict:
    """The rows that those of each group are compared with, `None` where there are none."""
    return {group.name: (given or {}).get(group.name, by_name[group.name].get(group.reference)) for group in groups}


def _cells(group: ColumnGroup, evaluated, seed: int) -> dict:
    cells = {}
    for name, column in group.columns.items():
        if isinstance(column, FigureColumn):
            if name in evaluated.figures:
                cells[name] = {"n": None, "n_failed": 0, "mean": evaluated.figures[name], "low": math.nan}
                cells[name] |= {"high": math.nan, "n_skipped": 0}
        elif name in evaluated.values:
            values = evaluated.values[name]
            skipped = evaluated.skipped.get(name, np.zeros(len(values), dtype=bool))
            cells[name] = column.summarize(values, skipped, seed)
    return cells


def _comparisons(group: ColumnGroup, first, second, seed: int) -> dict:
    cells = {}
    for name, column in group.columns.items():
        if name in first.values and name in second.values:
            none = np.zeros(len(first.values[name]), dtype=bool)
            skipped = first.skipped.get(name, none) | second.skipped.get(name, none)
            cells[name] = column.compare(first.values[name], second.values[name], skipped, seed)
    return cells


def _failures(rows: list[dict], groups: Sequence[ColumnGroup]) -> dict:
    """Counts by stage and reason. A clip that no group could measure, for want of audio, is in the rows of each."""
    shared = len(groups)
    found = {}
    for row in rows:
        for stage, reason in row["failures"].items():
            found.setdefault(stage, Counter())[reason] += 1
    for stage in SHARED_STAGES:
        if stage in found:
            found[stage] = Counter({reason: count // shared for reason, count in found[stage].items()})
    order = [*SHARED_STAGES, *(name for group in groups for name in group.columns)]
    stages = sorted(found, key=lambda stage: order.index(stage) if stage in order else len(order))
    return {stage: dict(found[stage].most_common()) for stage in stages}


def per_clip(
    systems: Sequence,
    groups: Sequence[ColumnGroup],
    rows: dict[str, list[list[dict]]],
    seed: int = 0,
    references: dict[str, list[dict]] | None = None,
) -> Iterator[dict]:
    """
    Yields for each system and clip the values of all columns: `{"system", "clip", "path", column: number, ...}`, NaN where
    there is none. Arguments are those of [`tabulate`].
    """
    names = [system.name for system in systems]
    by_name = {group.name: dict(zip(names, rows[group.name], strict=True)) for group in groups}
    references = _references(groups, by_name, references)
    for name in names:
        values = {}
        for group in groups:
            evaluated = group.evaluate(by_name[group.name][name], references[group.name], seed)
            for column, items in evaluated.values.items():
                values[column] = [group.columns[column].value_of(item) for item in items]
        for index, row in enumerate(by_name[groups[0].name][name]):
            numbers = {column: items[index] for column, items in values.items()}
            yield {"system": name, "clip": row["clip"], "path": row["path"], **numbers}


def worst_failures(table: dict) -> int:
    """The most clips that any cell of the table misses."""
    return max(cell["n_failed"] for system in table["systems"].values() for cell in system["metrics"].values())


# ----- Markdown


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float, digits: int) -> str:
    """A number, or `-` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _estimate(mean: float, low: float, high: float, digits: int) -> str:
    interval = "" if low is None or math.isnan(low) else f" [{number(low, digits)}, {number(high, digits)}]"
    return number(mean, digits) + interval


def _cell_text(cell: dict | None, digits: int) -> str:
    if cell is None:
        return "-"
    text = _estimate(cell["mean"], cell["low"], cell["high"], digits)
    return text + (f" (n_failed {cell['n_failed']})" if cell["n_failed"] else "")


def columns_of(table: dict, group: str) -> dict[str, dict]:
    """The columns of a group that some system has."""
    return {
        name: column
        for name, column in table["columns"].items()
        if column["group"] == group and any(name in system["metrics"] for system in table["systems"].values())
    }


def _group_lines(table: dict, group: str, facts: dict[str, int]) -> list[str]:
    """The part of one group; `facts` are numbers of a system that stand before its cells, with their decimals."""
    columns = columns_of(table, group)
    lines = [
        _row(["system", *facts, *(column["label"] for column in columns.values())]),
        _row(["---"] * (1 + len(facts) + len(columns))),
    ]
    for name, system in table["systems"].items():
        numbers = [number(system[key], digits) for key, digits in facts.values()]
        cells = [_cell_text(system["metrics"].get(key), column["digits"]) for key, column in columns.items()]
        if any(cell != "-" for cell in cells) or facts:
            lines.append(_row([name, *numbers, *cells]))
    return lines


def _anchor_text(value: float | str) -> str:
    return value if isinstance(value, str) else number(value, 3)


def markdown(table: dict) -> str:
    """The table as Markdown: means, intervals and failures; then comparisons, reasons of failures, the protocol."""
    # Only codecs have these.
    facts = {"kbps": ("kbps", 2), "x real time": ("times_real_time", 0)}
    facts = {label: fact for label, fact in facts.items() if fact[0] in next(iter(table["systems"].values()))}
    lines = []
    for place, (name, group) in enumerate(table["groups"].items()):
        if len(table["groups"]) > 1:
            lines += ["" if lines else None, f"**{group['title']}**", ""]
        lines += _group_lines(table, name, {} if place else facts)
        if group["anchors"]:
            texts = [f"{label} {_anchor_text(value)}" for label, value in group["anchors"].items()]
            lines += ["", "Read against: " + "; ".join(texts) + "."]
        skipped = {
            table["columns"][column]["label"]: cell["n_skipped"]
            for system in table["systems"].values()
            for column, cell in system["metrics"].items()
            if table["columns"][column]["group"] == name and cell["n_skipped"]
        }
        if skipped:
            texts = [f"{label}: {count}" for label, count in skipped.items()]
            lines += ["", f"Clips with nothing to measure, not counted: {'; '.join(texts)}."]
    lines = [line for line in lines if line is not None]
    lines += [
        "",
        f"n = {table['n_clips']} clips a system, less n_failed where given. Mean [95 % interval, percentile bootstrap"
        f" over clips, seed {table['seed']}]."
        + (" kbps: all bits over all seconds. x real time: encoding and decoding." if facts else ""),
    ]

    if table["comparisons"]:
        compared = [
            (key, column)
            for key, column in table["columns"].items()
            if any(key in cells for cells in table["comparisons"].values())
        ]
        lines += [
            "",
            f"Difference to {table['compare_to']} on the same clips [95 % interval], p of a two-sided paired"
            " permutation test, not corrected for the number of tests:",
            "",
            _row(["system", *(column["label"] for _, column in compared)]),
            _row(["---"] * (1 + len(compared))),
        ]
        for name, cells in table["comparisons"].items():
            texts = []
            for key, column in compared:
                cell = cells.get(key)
                text = (
                    "-" if cell is None else _estimate(*_values(cell, "difference", "low", "high"), column["digits"])
                )
                texts.append(text if text == "-" else f"{text}, p {cell['p']:.2g}, n {cell['n']}")
            lines.append(_row([name, *texts]))

    failures = []
    for name, system in table["systems"].items():
        for stage, reasons in system["failures"].items():
            texts = [f"{count} x {reason}" for reason, count in list(reasons.items())[:REASONS]]
            more = [f"and {len(reasons) - REASONS} other reasons"] if len(reasons) > REASONS else []
            failures.append(f"- {name}, {stage}: {'; '.join(texts + more)}")
    if failures:
        lines += ["", "Failures (NaN, counted, not averaged):", "", *failures]

    if facts:
        lines += ["", "Residual lag (median, in samples; positive: late) and clips shifted by theirs:", ""]
        lines += [
            f"- {name}: {number(system['median_lag'], 1)}, {system['n_shifted']} of {table['n_clips']}"
            for name, system in table["systems"].items()
        ]
    lines += ["", "Protocol:", ""]
    for key, value in table["protocol"].items():
        text = ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else value
        lines.append(f"- {key}: {text}")
    return "\n".join(lines) + "\n"


def _values(cell: dict, *names: str) -> tuple:
    return tuple(cell[name] for name in names)


# ----- files


def write_table(table: dict, out: Path) -> str:
    """Writes `table.json` and `table.md` into a folder; returns the Markdown."""
    text = markdown(table)
    (out / "table.json").write_text(dump(table, indent=2) + "\n", encoding="utf-8")
    (out / "table.md").write_text(text, encoding="utf-8")
    return text


def read_table(path: str | Path) -> dict:
    """A `table.json`, its nulls as NaN where numbers belong."""
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    return {**table, **{key: _nan(table[key]) for key in ("systems", "comparisons", "groups")}}


def _nan(value):
    if isinstance(value, dict):
        return {key: _nan(item) for key, item in value.items()}
    return math.nan if value is None else value
