"""The analysis of listening tests as Markdown and as a picture."""

import math

from ..tables import number
from .answers import METHODS
from .statistics import NUM_RESAMPLES


ROLE_NAMES = {
    "system": "",
    "hidden_reference": " (hidden reference)",
    "low_anchor": " (low anchor)",
    "mid_anchor": " (mid anchor)",
}
COLORS = {"system": "#3b5bdb", "hidden_reference": "#1b7f5c", "low_anchor": "#888888", "mid_anchor": "#888888"}
LEVEL = 0.05


def markdown_row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def estimate(value: float, low: float, high: float, digits: int = 3) -> str:
    """`0.123 [0.100, 0.150]`, without brackets where there is no interval."""
    return number(value, digits) + ("" if math.isnan(low) else f" [{number(low, digits)}, {number(high, digits)}]")


def _p_value(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [markdown_row(header), markdown_row(["---"] * len(header)), *(markdown_row(cells) for cells in rows)]


def _pairs(pairs: list[dict], digits: int) -> list[str]:
    rows = [
        [
            f"{pair['first']} - {pair['second']}",
            estimate(pair["difference"], pair["low"], pair["high"], digits),
            *(_p_value(pair[key]) for key in ("p_listeners", "p_clips", "p_holm")),
            "yes" if pair["p_holm"] <= LEVEL else "no",
        ]
        for pair in pairs
    ]
    header = ["difference", "mean [95 %]", "p, listeners", "p, clips", "p, Holm", f"significant at {LEVEL:g}"]
    return _table(header, rows)


def markdown(analysis: dict) -> str:
    """All tests: means, differences, who was left out and why, and how it was counted."""
    lines = []
    for name, test in analysis["tests"].items():
        method = METHODS[test["method"]]
        digits = 1 if test["method"] == "mushra" else 2
        lines += [
            f"## {name}: {method.title}, {method.low:g} to {method.high:g}",
            "",
            f"{test['num_listeners']} listeners ({test['num_excluded']} left out), {test['num_clips']} clips,"
            f" {test['num_answers']} answers.",
            "",
        ]
        if min(test["num_listeners"], test["num_clips"]) < 6:
            lines += ["With fewer than six listeners or clips no difference can be significant here.", ""]
        if "systems" in test:
            rows = [
                [
                    system + ROLE_NAMES[cell["role"]],
                    estimate(cell["mean"], cell["low"], cell["high"], digits),
                    number(cell["median"], digits),
                    f"{number(cell['first_quartile'], digits)} to {number(cell['third_quartile'], digits)}",
                    str(cell["n"]),
                ]
                for system, cell in test["systems"].items()
            ]
            lines += [*_table(["system", "mean [95 %]", "median", "quartiles", "answers"], rows), ""]
        else:
            rows = [
                [
                    f"{pair['first']} against {pair['second']}",
                    *(f"{pair['share'][key]:.0%}" for key in ("first", "neither", "second")),
                    str(pair["n"]),
                ]
                for pair in test["pairs"]
            ]
            position = test["position"]
            lines += [
                *_table(["pair", "first better", "neither", "second better", "answers"], rows),
                "",
                f"What was heard second was preferred in {number(100 * position['second'], 0)} % of {position['n']}"
                f" decisions (p {_p_value(position['p'])}).",
                "",
            ]
        lines += [*_pairs(test["pairs"], digits), ""]
        excluded = [item for item in test["listeners"] if item["reasons"]]
        if excluded:
            lines += [
                "Left out:",
                "",
                *(f"- {item['listener']}: {'; '.join(item['reasons'])}" for item in excluded),
                "",
            ]
    settings = analysis["settings"]
    agreement = settings["min_agreement"]
    lines += [
        f"Intervals: percentile bootstrap over listeners and clips, both drawn ({NUM_RESAMPLES:,} draws, seed"
        f" {settings['seed']}), so that they hold for other listeners and other clips. p: permutation tests over listeners"
        " and over clips; a difference is claimed at the larger of both, corrected for all pairs of its test (Holm)."
        f" Screening: {settings['min_attention']:.0%} of attention checks; MUSHRA by ITU-R BS.1534-3 (hidden reference"
        " below 90, or mid anchor above 90, on more than 15 % of the items)"
        + (f"; correlation with the other listeners of {agreement:g} or more." if agreement is not None else "."),
    ]
    return "\n".join(lines) + "\n"


def picture(analysis: dict):
    """A matplotlib figure, a panel a test: means with intervals over the means of listeners, or shares of preferences."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture needs `matplotlib`: pip install 'hf-affectcodec[eval]'") from error
    tests = analysis["tests"]
    heights = [
        1.3 + 0.5 * max(1, len(test["systems"] if "systems" in test else test["pairs"])) for test in tests.values()
    ]
    figure = Figure(figsize=(8.5, sum(heights)), dpi=150, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tests), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, test) in zip(axes, tests.items(), strict=True):
        method = METHODS[test["method"]]
        axis.set_title(
            f"{name}: {method.title}, {test['num_listeners']} listeners, {test['num_clips']} clips", fontsize=11
        )
        axis.spines[["top", "right"]].set_visible(False)
        if "systems" in test:
            _draw_ratings(axis, test["systems"], method)
        elif test["method"] == "ab":
            _draw_preferences(axis, test["pairs"])
        else:
            _draw_differences(axis, test["pairs"], method)
    return figure


def _draw_ratings(axis, systems: dict, method):
    for position, cell in enumerate(systems.values()):
        color = COLORS[cell["role"]]
        axis.plot(cell["listener_means"], [position] * len(cell["listener_means"]), "|", color=color, alpha=0.35, ms=9)
        if not math.isnan(cell["low"]):
            axis.plot([cell["low"], cell["high"]], [position, position], color=color, linewidth=3)
        axis.plot([cell["mean"]], [position], "o", color=color, markersize=7, markeredgecolor="white")
        axis.annotate(
            f"{cell['mean']:.{1 if method.high > 10 else 2}f}",
            (cell["mean"], position),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    labels = [name + ROLE_NAMES[cell["role"]] for name, cell in systems.items()]
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.75)
    axis.set_xlim(method.low - 0.02 * (method.high - method.low), method.high + 0.02 * (method.high - method.low))
    axis.set_xlabel("mean and 95 % interval; ticks: means of single listeners")
    axis.grid(axis="x", alpha=0.3)


def _draw_preferences(axis, pairs: list[dict]):
    colors = {"first": "#3b5bdb", "neither": "#d0d4da", "second": "#e8853a"}
    for position, pair in enumerate(pairs):
        start = 0.0
        for key, color in colors.items():
            share = pair["share"][key]
            axis.barh(position, share, left=start, color=color, height=0.5)
            if share >= 0.06:
                ink = "black" if key == "neither" else "white"
                axis.text(start + share / 2, position, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=9)
            start += share
        axis.text(1.01, position, pair["second"], va="center", fontsize=10)
    axis.set_yticks(range(len(pairs)), [pair["first"] for pair in pairs])
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axis.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlabel("answers that prefer the system on the left, neither, the system on the right")


def _draw_differences(axis, pairs: list[dict], method):
    for position, pair in enumerate(pairs):
        if not math.isnan(pair["low"]):
            axis.plot([pair["low"], pair["high"]], [position, position], color="#3b5bdb", linewidth=3)
        axis.plot([pair["difference"]], [position], "o", color="#3b5bdb", markersize=7, markeredgecolor="white")
    axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(pairs)), [f"{pair['first']} over {pair['second']}" for pair in pairs])
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.set_xlim(method.low, method.high)
    axis.set_xlabel("mean and 95 % interval; above 0 the first is better")
    axis.grid(axis="x", alpha=0.3)
