"""Short-time objective intelligibility, for `evaluate.load`."""

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.stoi import stoi


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.
    extended (optional): ESTOI instead of STOI.

Returns:
    dict: stoi (mean), stoi_low, stoi_high (95 % bootstrap interval), stoi_n, stoi_n_failed, stoi_values,
    stoi_failures.
"""


class STOI(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(stoi),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=["https://doi.org/10.1109/TASL.2011.2114881"],
        )

    def _compute(self, predictions, references, sampling_rate=16000, extended=False):
        def metric(reference, degraded):
            return stoi(reference, degraded, sampling_rate, extended)

        return measure_clips(["stoi"], metric, references, predictions)
