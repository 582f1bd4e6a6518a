"""The columns that need no network but compare, or rate, waveforms: one number a clip each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hf_affectcodec.metrics.alignment import align, estimate_lag

from ..codecs import SAMPLING_RATE
from ..measuring import Sample
from .kinds import Evaluated, MeanColumn


MAX_LAG = 0.05  # seconds searched for a residual delay
MIN_CORRELATION = 0.5  # below it the two waveforms have too little in common for their lag to mean anything
DIGITS = 6  # decimals kept of a value: beyond them lies the rounding of the arithmetic


@dataclass(frozen=True)
class Metric:
    """
    Args:
        function (`Callable`): `(reference [T], degraded [T], sampling_rate) -> float`; a ValueError says that this
            clip cannot be measured.
        label (`str`): Column heading, with the direction that is better.
        digits (`int`): Decimals printed.
        aligned (`bool`, *optional*, defaults to `True`): Whether `degraded` is moved by the lag found before.
    """

    function: Callable[[np.ndarray, np.ndarray, int], float]
    label: str
    digits: int
    aligned: bool = True


def measure(metrics: dict[str, Metric], reference: np.ndarray, degraded: np.ndarray) -> dict:
    """
    All metrics on one clip.

    Args:
        metrics (`dict[str, Metric]`): Which.
        reference (`np.ndarray` [T]): float32 at 16 kHz.
        degraded (`np.ndarray` [T]): float32 at 16 kHz.

    Returns:
        `dict`: `lag` (samples, positive where `degraded` is late) and `correlation` at that lag, `None` where there is
        none; `shift` (samples taken out before the metrics that want alignment: the lag, or 0 where the correlation is
        below `MIN_CORRELATION`); `metrics` (NaN where a clip cannot be measured) and `failures` (the reasons).
    """
    # The same arithmetic in every process: sums split over threads round differently.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lag, correlation = None, None
        try:
            lag, correlation = estimate_lag(reference, degraded, SAMPLING_RATE, MAX_LAG)
        except ValueError:
            pass  # silent or not finite: each metric says so below, or is defined for it
        shift = lag if lag is not None and correlation >= MIN_CORRELATION else 0
        aligned = align(degraded, shift, reference.size)
        values, failures = {}, {}
        for name, metric in metrics.items():
            try:
                value = metric.function(reference, aligned if metric.aligned else degraded, SAMPLING_RATE)
                values[name] = round(value, DIGITS)
            except ValueError as error:
                values[name] = math.nan
                failures[name] = str(error)
    finally:
        torch.set_num_threads(num_threads)
    return {
        "lag": lag,
        "correlation": None if correlation is None else round(correlation, DIGITS),
        "shift": shift,
        "metrics": values,
        "failures": failures,
    }


class MetricColumns:
    """
    A [`~..measuring.ColumnGroup`] of metrics that are one number a clip. Rows are those of [`measure`].

    Args:
        metrics (`dict[str, Metric]`): By name of the column.
        protocol (`dict`): What they depend on.
        name, title (`str`, *optional*): Of the group.
        in_workers (`bool`, *optional*, defaults to `True`): Whether the metrics may run in another process: not where
            they hold a network of their own.
    """

    reference = None

    def __init__(
        self,
        metrics: dict[str, Metric],
        protocol: dict,
        name: str = "signal",
        title: str = "Signal",
        in_workers: bool = True,
    ):
        self.metrics, self.protocol = metrics, protocol
        self.name, self.title, self.in_workers = name, title, in_workers
        self.columns = {key: MeanColumn(metric.label, metric.digits) for key, metric in metrics.items()}
        self.missing = {"lag": None, "correlation": None, "shift": 0, "metrics": dict.fromkeys(metrics, math.nan)}

    def measure(self, system, sample: Sample) -> dict:
        return measure(self.metrics, sample.reference, sample.degraded)

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        return Evaluated({name: [row["metrics"][name] for row in rows] for name in self.metrics}, {}, {})

    def anchors(self, references: list[dict] | None, seed: int) -> dict:
        return {}
