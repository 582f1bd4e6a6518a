"""Predicted opinion scores of one waveform, without a reference."""

from collections.abc import Callable

import numpy as np

from ..codecs import SAMPLING_RATE
from ..measuring import Sample
from .kinds import Evaluated, MeanColumn


DIGITS = 6  # decimals kept


class RatingColumns:
    """
    A [`~..measuring.ColumnGroup`] of one predictor, which may have several scales.

    Args:
        rate (`Callable`): `(waveform [T], sampling_rate) -> {scale: score}`; a ValueError says that it cannot be rated.
        labels (`dict[str, str]`): Heading of each scale.
        name, title (`str`): Of the group.
        protocol (`dict`): What it depends on.
    """

    reference, in_workers = None, False

    def __init__(self, rate: Callable, labels: dict[str, str], name: str, title: str, protocol: dict):
        self.rate, self.name, self.title, self.protocol = rate, name, title, protocol
        self.columns = {scale: MeanColumn(label, 2) for scale, label in labels.items()}
        self.missing = {"metrics": dict.fromkeys(labels, np.nan)}

    def measure(self, system, sample: Sample) -> dict:
        try:
            scores = self.rate(sample.degraded, SAMPLING_RATE)
        except ValueError as error:
            return {**self.missing, "failures": dict.fromkeys(self.columns, str(error))}
        return {"metrics": {scale: round(float(scores[scale]), DIGITS) for scale in self.columns}, "failures": {}}

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        return Evaluated({scale: [row["metrics"][scale] for row in rows] for scale in self.columns}, {}, {})

    def anchors(self, references: list[dict] | None, seed: int) -> dict:
        return {}
