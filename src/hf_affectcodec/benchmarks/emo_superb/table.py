"""
What a table of EMO-SUPERB may say: macro-F1 with intervals over speakers, and tests against the original speech.

Clips of one speaker resemble each other, so speakers are drawn, not clips. With few of them intervals are wide, and so
they should be.
"""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from ..codecs import Original
from ..listening.report import estimate, markdown_row
from ..listening.statistics import holm
from ..tables import number
from .sets import has_class


NUM_RESAMPLES = 10_000
PRIOR = "training prior"


def class_counts(rows: list[dict], speakers: list[str]) -> np.ndarray:
    """
    True positives, false positives and false negatives of each speaker and class, [S, K, 3], over the seeds together.

    Args:
        rows (`list[dict]`): Of clips that were measured, see [`~..evaluate_ser.run_fold`].
        speakers (`list[str]`): The S speakers in order.
    """
    references = np.array([row["reference"] for row in rows], dtype=bool)
    predictions = has_class(np.array([row["probabilities"] for row in rows])).astype(bool)
    outcomes = np.stack(
        [references & predictions, ~references & predictions, references & ~predictions], axis=-1
    ).astype(np.int64)
    position = {speaker: index for index, speaker in enumerate(speakers)}
    counts = np.zeros((len(speakers), *outcomes.shape[1:]), dtype=np.int64)
    np.add.at(counts, [position[row["speaker"]] for row in rows], outcomes)
    return counts


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """
    Of summed counts [..., K, 3]: the mean of 2 TP / (2 TP + FP + FN) over the classes that occur, NaN where none does.
    """
    true, extra, missed = np.moveaxis(counts.astype(np.float64), -1, 0)
    occurs = true + missed > 0
    denominator = 2 * true + extra + missed
    scores = np.divide(2 * true, denominator, out=np.zeros_like(true), where=denominator > 0)
    num_classes = occurs.sum(axis=-1)
    return np.where(num_classes > 0, (scores * occurs).sum(axis=-1) / np.maximum(num_classes, 1), np.nan)


def speaker_interval(first: np.ndarray, second: np.ndarray | None = None, seed: int = 0) -> tuple[float, float]:
    """
    Percentile bootstrap over speakers, 95 %, of the macro-F1 of counts [S, K, 3], or of the difference of two of them.
    NaN for a single speaker.
    """
    num_speakers = len(first)
    if num_speakers < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).multinomial(
        num_speakers, np.full(num_speakers, 1 / num_speakers), NUM_RESAMPLES
    )
    values = macro_f1(np.tensordot(draws, first, axes=1))
    if second is not None:
        values = values - macro_f1(np.tensordot(draws, second, axes=1))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def speaker_permutation_test(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """
    Two-sided permutation test of the difference of macro-F1: were the systems alike, which of the two each speaker's
    outcomes belong to would be a coin flip. All patterns are counted where there are no more than 10,000, drawn
    otherwise, the observed one counting as one more.

    Args:
        first, second (`np.ndarray` [S, K, 3]): Counts of the same clips.

    Returns:
        `float`: p, no smaller than 2^(1 - S).
    """
    num_speakers = len(first)
    observed = abs(macro_f1(first.sum(axis=0)) - macro_f1(second.sum(axis=0)))
    exact = 2**num_speakers <= NUM_RESAMPLES
    if exact:
        swaps = (np.arange(2**num_speakers)[:, None] >> np.arange(num_speakers)) & 1
    else:
        swaps = np.random.default_rng(seed).integers(2, size=(NUM_RESAMPLES, num_speakers))
    kept, swapped = (np.tensordot(1 - swaps, first, axes=1), np.tensordot(swaps, first, axes=1))
    one = macro_f1(kept + np.tensordot(swaps, second, axes=1))
    other = macro_f1(swapped + np.tensordot(1 - swaps, second, axes=1))
    hits = int((abs(one - other) >= observed - 1e-12).sum())
    return hits / len(swaps) if exact else (1 + hits) / (1 + len(swaps))


def _cell(rows: list[dict], scores: list[dict], original: list[dict] | None) -> dict:
    measured = [row for row in rows if row["failure"] is None]
    speakers = sorted({row["speaker"] for row in rows})
    clips = {row["clip"] for row in rows}
    failed = {row["clip"]: row["failure"] for row in rows if row["failure"] is not None}
    seconds = sum(row["seconds"] or 0 for row in measured)
    cell = {
        "n": len(clips) - len(failed),
        "n_failed": len(failed),
        "failures": dict(Counter(failed.values()).most_common()),
        "num_speakers": len(speakers),
        "kbps": sum(row["bits"] for row in measured) / seconds / 1000 if seconds else math.nan,
        "by_fold": scores,
        "macro_f1_folds": float(np.mean([score["macro_f1"] for score in scores])),
        "macro_f1": math.nan,
        "low": math.nan,
        "high": math.nan,
    }
    if measured:
        counts = class_counts(measured, speakers)
        low, high = speaker_interval(counts)
        cell |= {"macro_f1": float(macro_f1(counts.sum(axis=0))), "low": low, "high": high}
    if original is not None and measured:
        both = {row["clip"] for row in measured} & {row["clip"] for row in original if row["failure"] is None}
        ours, theirs = (
            class_counts([row for row in side if row["clip"] in both], speakers) for side in (measured, original)
        )
        low, high = speaker_interval(ours, theirs)
        cell["to_original"] = {
            "n": len(both),
            "difference": float(macro_f1(ours.sum(axis=0)) - macro_f1(theirs.sum(axis=0))),
            "low": low,
            "high": high,
            "p": speaker_permutation_test(ours, theirs),
        }
    return cell


def tabulate(rows: list[dict], by_fold: Callable[[list[dict]], list[dict]]) -> dict:
    """
    Args:
        rows (`list[dict]`): Of all folds, see [`~..evaluate_ser.run_fold`].
        by_fold (`Callable`): See [`~..evaluate_ser.macro_f1_by_fold`].

    Returns:
        `dict`: `systems`, each with `macro_f1_folds` (mean over folds and seeds, as the benchmark reports), `macro_f1`
        of all folds' test clips together with its interval `low`, `high`, `n`, `n_failed`, `kbps`, and `to_original`:
        the difference on the same clips, its interval, p, and p corrected for the number of codecs (Holm).
    """
    names = list(dict.fromkeys(row["system"] for row in rows))
    by_system = {name: [row for row in rows if row["system"] == name] for name in names}
    systems = {}
    for name, own in by_system.items():
        compared = None if name in (Original.name, PRIOR) else by_system[Original.name]
        systems[name] = _cell(own, by_fold(own), compared)
    compared = [cell["to_original"] for cell in systems.values() if "to_original" in cell]
    for comparison, corrected in zip(compared, holm([item["p"] for item in compared]), strict=True):
        comparison["p_holm"] = corrected
    return {"systems": systems}


def markdown(table: dict) -> str:
    """All sets in one table, then each with intervals and tests, reasons of failures, and the protocol."""
    sets = table["sets"]
    names = list(dict.fromkeys(name for item in sets.values() for name in item["systems"]))
    lines = [
        "Macro-F1 on resynthesised test clips, mean over folds and seeds; the probe is trained on original speech.",
        "",
        markdown_row(["system", *sets]),
        markdown_row(["---"] * (1 + len(sets))),
    ]
    for name in names:
        lines.append(
            markdown_row([name, *(number(item["systems"][name]["macro_f1_folds"], 3) for item in sets.values())])
        )
    for path, item in sets.items():
        counts = ", ".join(f"{name} {item['class_counts'].get(name, 0)}" for name in item["classes"])
        first = next(iter(item["systems"].values()))
        lines += [
            "",
            f"## {path}",
            "",
            f"{item['folds']} folds, {first['num_speakers']} speakers in all, each tested where it was not trained on"
            f"{'' if item['speakers_checked'] else ' (NOT checked)'}. Clips by class: {counts}.",
            "",
            markdown_row(
                ["system", "kbps", "mean of folds", "all clips [95 %]", "to original [95 %]", "p", "p (Holm)", "n"]
            ),
            markdown_row(["---"] * 8),
        ]
        for name, cell in item["systems"].items():
            compared = cell.get("to_original")
            difference = ["-", "-", "-"]
            if compared is not None:
                difference = [
                    estimate(compared["difference"], compared["low"], compared["high"]),
                    f"{compared['p']:.2g}",
                    f"{compared['p_holm']:.2g}",
                ]
            measured = f"{cell['n']}" + (f" (n_failed {cell['n_failed']})" if cell["n_failed"] else "")
            scores = [
                number(cell["kbps"], 2),
                number(cell["macro_f1_folds"], 3),
                estimate(cell["macro_f1"], cell["low"], cell["high"]),
            ]
            lines.append(markdown_row([name, *scores, *difference, measured]))
        failures = [
            f"- {name}: {count} x {reason}"
            for name, cell in item["systems"].items()
            for reason, count in list(cell["failures"].items())[:3]
        ]
        if failures:
            lines += ["", "Failures (counted, not scored):", "", *failures]
    lines += [
        "",
        "`all clips`: macro-F1 of the test clips of all folds together (and all seeds); intervals by bootstrap over"
        f" speakers ({NUM_RESAMPLES:,} draws); p of a two-sided permutation test that swaps whole speakers between the"
        f" two systems; Holm over the codecs of a set. `{PRIOR}`: predicts the mean label of the training clips.",
        "",
        "Protocol:",
        "",
    ]
    for key, value in table["protocol"].items():
        text = ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else value
        lines.append(f"- {key}: {text}")
    return "\n".join(lines) + "\n"


def picture(table: dict):
    """A matplotlib figure: a panel for each set, a point with its interval for each system."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture needs `matplotlib`: pip install 'hf-affectcodec[eval]'") from error
    sets = table["sets"]
    num_systems = max(len(item["systems"]) for item in sets.values())
    figure = Figure(figsize=(1.6 + 4.2 * len(sets), 1.4 + 0.45 * num_systems), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (path, item) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True):
        names = list(item["systems"])
        for position, (name, cell) in enumerate(item["systems"].items()):
            color = "#888888" if name == PRIOR else "#1b7f5c" if name == Original.name else "#3b5bdb"
            if not math.isnan(cell["low"]):
                axis.plot([cell["low"], cell["high"]], [position, position], color=color, linewidth=2.2)
            axis.plot([cell["macro_f1"]], [position], "o", color=color, markersize=7)
            axis.annotate(
                number(cell["macro_f1"], 3), (cell["macro_f1"], position), (0, 7), textcoords="offset points",
                ha="center", fontsize=9,
            )  # fmt: skip
        axis.axvline(item["systems"][Original.name]["macro_f1"], color="#1b7f5c", linewidth=0.8, linestyle=":")
        labels = [
            name if math.isnan(item["systems"][name]["kbps"]) else f"{name} ({item['systems'][name]['kbps']:.1f} kbps)"
            for name in names
        ]
        axis.set_yticks(range(len(names)), labels)
        axis.set_ylim(len(names) - 0.4, -0.7)
        axis.set_title(path, fontsize=11)
        axis.set_xlabel("macro-F1, 95 % interval over speakers")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.3)
    return figure
