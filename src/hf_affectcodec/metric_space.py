"""
What the modules and pages in `spaces/metrics` share. A module wraps a plain function of `hf_affectcodec.metrics` for
`evaluate.load`; a page lets anybody try it. (`evaluate.utils.launch_gradio_widget` is of Gradio 3 and takes no audio.)
"""

import inspect
import re
from collections.abc import Callable, Sequence

import numpy as np

from .audio import load_audio
from .metrics.alignment import align, estimate_lag
from .metrics.statistics import Summary, summarize


try:
    import datasets
except ImportError as error:
    raise ImportError("Metric modules need the package `datasets`: pip install 'hf-affectcodec[eval]'") from error


WAVEFORM = datasets.Sequence(datasets.Value("float32"))  # feature of a column of waveforms [T]
SAMPLING_RATE = 16000  # Hz, of pages; modules say what they take
MAX_SECONDS = 60.0


# ----- modules


def describe(function: Callable) -> str:
    """What the docstring of a metric says before its arguments, and of what it returns."""
    text = f"\n{inspect.getdoc(function)}"
    head = text.split("\nArgs:\n")[0].strip()
    returns = text.partition("\nReturns:\n")[2].partition("\n\nRaises:\n")[0]
    returns = f"Returns {' '.join(returns.split())}" if returns else ""
    text = "\n\n".join(part for part in (head, returns) if part)
    return re.sub(r"\[`~?(?:[\w.]*\.)?(\w+)`\]", r"`\1`", text)


def named(name: str, summary: Summary) -> dict:
    """A summary with the metric's name in front of its fields: `NAME`, `NAME_low`, `NAME_high`, `NAME_n`, `NAME_n_failed`."""
    return {
        name: summary.mean,
        f"{name}_low": summary.low,
        f"{name}_high": summary.high,
        f"{name}_n": summary.n,
        f"{name}_n_failed": summary.n_failed,
    }


def measure_clips(names: Sequence[str], metric: Callable, *columns: Sequence) -> dict:
    """
    A metric over clips. A clip that it raises ValueError for is NaN, is counted and is not averaged.

    Args:
        names (sequence of `str`): Of the K values that `metric` gives.
        metric (`Callable`): From one item of each column to a value, or to K.
        columns (sequences [N]): Its arguments, clip by clip.

    Returns:
        `dict`: For each name the fields of [`named`] and `NAME_values`, a list with NaN where a clip failed; and
        `FIRST_NAME_failures`, the reason by index of the clip.

    Raises:
        ValueError: Columns have different lengths.
    """
    values, failures = np.full((len(columns[0]), len(names)), np.nan), {}
    for index, arguments in enumerate(zip(*columns, strict=True)):
        try:
            values[index] = metric(*arguments)
        except ValueError as error:
            failures[index] = str(error)
    result = {}
    for name, column in zip(names, values.T, strict=True):
        result |= {**named(name, summarize(column)), f"{name}_values": column.tolist()}
    return {**result, f"{names[0]}_failures": failures}


def vectors_of(function: Callable[..., np.ndarray], waveforms: Sequence, sampling_rate: int) -> np.ndarray:
    """
    `function(waveform, sampling_rate)` [C] of each clip as [N, C], a row of NaN for each clip that it raises ValueError for.

    Raises:
        ValueError: It raised for all of them; the reason is that of the first.
    """
    rows, reason = [], None
    for waveform in waveforms:
        try:
            rows.append(np.asarray(function(waveform, sampling_rate), dtype=np.float64))
        except ValueError as error:
            rows.append(None)
            reason = reason or error
    size = next((row.size for row in rows if row is not None), None)
    if size is None:
        raise ValueError(f"no clip could be measured: {reason}")
    return np.stack([np.full(size, np.nan) if row is None else row for row in rows])


# ----- pages


def audio_input(label: str):
    """A Gradio input that gives the path of a recording."""
    import gradio as gr

    return gr.Audio(sources=["upload", "microphone"], type="filepath", label=label, buttons=[])


def read_clip(path: str | None, label: str) -> np.ndarray:
    """
    [T] at 16 kHz.

    Raises:
        ValueError: There is none, it cannot be read, or is longer than a minute.
    """
    if path is None:
        raise ValueError(f"{label}: record or upload a clip first")
    waveform = load_audio(path, SAMPLING_RATE, name=label)[0].numpy()
    if waveform.size > MAX_SECONDS * SAMPLING_RATE:
        raise ValueError(f"{label}: this page takes up to {MAX_SECONDS:g} seconds")
    return waveform


def build_page(title: str, function: Callable, inputs: list, measure: Callable[..., dict[str, float | str]]):
    """
    A Gradio page with one button.

    Args:
        title (`str`): Heading.
        function (`Callable`): The metric whose docstring is shown.
        inputs (`list`): Gradio components.
        measure (`Callable`): From their values to rows of a table; its ValueError or ImportError is shown as a sentence.

    Returns:
        `gradio.Blocks`: `.launch()` serves it; the button is the endpoint `/measure`.
    """
    import gradio as gr

    def answer(*values):
        try:
            rows = measure(*values)
        except (ValueError, ImportError) as error:
            raise gr.Error(f"{error}.", print_exception=False) from error
        return [[name, value if isinstance(value, str) else f"{value:.4f}"] for name, value in rows.items()]

    with gr.Blocks(title=title) as page:
        gr.Markdown(f"# {title}")
        with gr.Row():
            with gr.Column():
                for component in inputs:
                    component.render()
                button = gr.Button("Measure", variant="primary")
            table = gr.Dataframe(headers=["measure", "value"], interactive=False, wrap=True, label="Result")
        with gr.Accordion("What it is", open=False):
            # As text: formulas in it are not meant to be Markdown.
            gr.Code(describe(function), language=None, interactive=False, show_label=False)
        button.click(answer, inputs, table, api_name="measure", concurrency_limit=1)
    return page.queue(max_size=32)


def build_clip_page(title: str, function: Callable, metrics: dict[str, Callable[[np.ndarray, int], float]]):
    """[`build_page`] for metrics of one recording; `metrics` go from waveform [T] and sampling rate to a value."""

    def measure(path):
        waveform = read_clip(path, "Recording")
        return {name: metric(waveform, SAMPLING_RATE) for name, metric in metrics.items()}

    return build_page(title, function, [audio_input("Recording")], measure)


def build_pair_page(
    title: str,
    function: Callable,
    metrics: dict[str, Callable[[np.ndarray, np.ndarray, int], float]],
    aligned: bool,
):
    """
    [`build_page`] for metrics that compare a recording with its original. With `aligned` the second is moved by the
    lag found, which is shown, and brought to the length of the first.
    """

    def measure(original_path, path):
        original, waveform = read_clip(original_path, "Original"), read_clip(path, "To be measured")
        rows = {}
        if aligned:
            lag, correlation = estimate_lag(original, waveform, SAMPLING_RATE)
            waveform = align(waveform, lag, original.size)
            rows = {"lag taken out (ms)": 1000 * lag / SAMPLING_RATE, "correlation at it": correlation}
        return {**{name: metric(original, waveform, SAMPLING_RATE) for name, metric in metrics.items()}, **rows}

    return build_page(title, function, [audio_input("Original"), audio_input("To be measured")], measure)
