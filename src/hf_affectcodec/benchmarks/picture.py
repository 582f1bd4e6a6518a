"""A table as a picture: a panel for each column, a dot with its interval for each system."""

import math

from .tables import number


COLUMNS = 4  # panels side by side
ORIGINAL = "#1b7f5c"  # first system
COLORS = ("#3b5bdb", "#d9480f", "#ae3ec9", "#0b7285", "#a61e4d", "#5c940d", "#6741d9", "#846358")
FLOOR = "floor"  # anchors whose name begins so are drawn in panels of means


def _panels(table: dict) -> list[tuple[str, dict]]:
    """Columns in which two systems or more have a number with an interval; where none has, all columns with numbers."""
    counts = {
        bound: {
            name: sum(math.isfinite(system["metrics"][name][bound]) for system in _having(table, name))
            for name in table["columns"]
        }
        for bound in ("low", "mean")
    }
    chosen = [name for name, count in counts["low"].items() if count > 1]
    chosen = chosen or [name for name, count in counts["mean"].items() if count]
    return [(name, table["columns"][name]) for name in chosen]


def _having(table: dict, column: str) -> list[dict]:
    return [system for system in table["systems"].values() if column in system["metrics"]]


def picture(table: dict):
    """
    Args:
        table (`dict`): See [`~.tables.tabulate`].

    Returns:
        A matplotlib figure. Dotted: the first system's value (the originals'); dashed: the floor, where the column has one.
        A system that lacks a column, or could not be measured, has no dot in it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture needs `matplotlib`: pip install 'hf-affectcodec[eval]'") from error
    panels = _panels(table)
    names = list(table["systems"])
    first = next(iter(table["systems"].values()))
    with_bitrates = "kbps" in first
    labels = [
        f"{name} ({table['systems'][name]['kbps']:.1f})" if with_bitrates and index else name
        for index, name in enumerate(names)
    ]
    colors = [ORIGINAL, *(COLORS[index % len(COLORS)] for index in range(len(names) - 1))]
    num_rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(
        figsize=(4.0 * COLUMNS + 1.5, num_rows * (1.15 + 0.34 * len(names)) + 0.5), dpi=110, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, COLUMNS, squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, column) in zip(axes.flat, panels, strict=False):
        _draw(axis, table, name, column, colors)
        axis.set_ylim(len(names) - 0.4, -0.75)
        axis.set_yticks(range(len(names)), labels, fontsize=9)
        axis.tick_params(axis="y", labelleft=axis.get_subplotspec().is_first_col())
    kbps = ", kbps in parentheses" if with_bitrates else ""
    figure.suptitle(
        f"{table['n_clips']} clips, mean and 95 % interval over clips{kbps}; dotted: the originals; dashed: the floor",
        fontsize=11,
    )
    return figure


def _draw(axis, table: dict, name: str, column: dict, colors: list[str]):
    for position, (system, color) in enumerate(zip(table["systems"].values(), colors, strict=True)):
        cell = system["metrics"].get(name)
        if cell is None or not math.isfinite(cell["mean"]):
            continue
        if math.isfinite(cell["low"]):
            axis.plot([cell["low"], cell["high"]], [position, position], color=color, linewidth=2.4, alpha=0.75)
        axis.plot([cell["mean"]], [position], "o", color=color, markersize=5.5)
        axis.annotate(
            number(cell["mean"], column["digits"]),
            (cell["mean"], position),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        if position == 0:
            axis.axvline(cell["mean"], color=ORIGINAL, linewidth=0.9, linestyle=":")
    anchors = table["groups"][column["group"]]["anchors"]
    for label, value in anchors.items():
        if label.startswith(FLOOR) and not isinstance(value, str) and math.isfinite(value):
            axis.axvline(value, color="#868e96", linewidth=1, linestyle="--")
    axis.set_title(column["label"], fontsize=10)
    axis.margins(x=0.14)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
