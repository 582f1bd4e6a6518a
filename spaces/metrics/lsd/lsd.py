"""Log-spectral distance, for `evaluate.load`."""

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.lsd import lsd


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.

Returns:
    dict: lsd (mean), lsd_low, lsd_high (95 % bootstrap interval), lsd_n, lsd_n_failed, lsd_values, lsd_failures.
"""


class LSD(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(lsd),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2104.02321"],
        )

    def _compute(self, predictions, references, sampling_rate=16000):
        def metric(reference, degraded):
            return lsd(reference, degraded, sampling_rate)

        return measure_clips(["lsd"], metric, references, predictions)
