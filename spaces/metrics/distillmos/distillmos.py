"""DistillMOS, for `evaluate.load`."""

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.distillmos import distillmos


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings, full scale ±1. There are no references.
    sampling_rate (int, optional): In Hz, 16000 by default.

Returns:
    dict: distillmos (mean), distillmos_low, distillmos_high (95 % bootstrap interval), distillmos_n,
    distillmos_n_failed, distillmos_values, distillmos_failures.
"""


class DistillMOS(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(distillmos),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2502.05356"],
        )

    def _compute(self, predictions, sampling_rate=16000):
        return measure_clips(["distillmos"], lambda waveform: distillmos(waveform, sampling_rate), predictions)
