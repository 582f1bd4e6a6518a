"""Errors of F0, for `evaluate.load`."""

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.f0 import f0_correlation, f0_rmse, log_f0_rmse, voicing_error


METRICS = {
    "f0_rmse_hz": f0_rmse,
    "log_f0_rmse_semitones": log_f0_rmse,
    "f0_correlation": f0_correlation,
    "voicing_error": voicing_error,
}

_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.

Returns:
    dict: for each of f0_rmse_hz, log_f0_rmse_semitones, f0_correlation and voicing_error: NAME (mean), NAME_low,
    NAME_high (95 % bootstrap interval), NAME_n, NAME_n_failed, NAME_values, NAME_failures.
"""


class F0Error(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="\n\n".join(f"{name}:\n{describe(function)}" for name, function in METRICS.items()),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=[],
        )

    def _compute(self, predictions, references, sampling_rate=16000):
        result = {}
        for name, function in METRICS.items():
            rates = [sampling_rate] * len(references)
            result |= measure_clips([name], function, references, predictions, rates)
        return result
