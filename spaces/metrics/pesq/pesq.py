"""PESQ, for `evaluate.load`."""

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.pesq import pesq


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.
    mode (optional): "wb" (16 kHz) or "nb" (8 or 16 kHz).

Returns:
    dict: pesq (mean), pesq_low, pesq_high (95 % bootstrap interval), pesq_n, pesq_n_failed, pesq_values,
    pesq_failures.
"""


class PESQ(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(pesq),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=["https://www.itu.int/rec/T-REC-P.862.2"],
        )

    def _compute(self, predictions, references, sampling_rate=16000, mode="wb"):
        def metric(reference, degraded):
            return pesq(reference, degraded, sampling_rate, mode)

        return measure_clips(["pesq"], metric, references, predictions)
