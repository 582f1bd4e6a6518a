"""UTMOS, for `evaluate.load`."""

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.utmos import UTMOS


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings, full scale ±1. There are no references.
    sampling_rate (int, optional): In Hz, 16000 by default.

Returns:
    dict: utmos (mean), utmos_low, utmos_high (95 % bootstrap interval), utmos_n, utmos_n_failed, utmos_values,
    utmos_failures.
"""


class UTMOSMetric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=f"{describe(UTMOS)}\n\n{describe(UTMOS.__call__)}",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2204.02152"],
        )

    def _download_and_prepare(self, dl_manager):
        # `evaluate.load(..., "HUB_ID_OR_FOLDER")`
        self.utmos = (
            UTMOS.from_pretrained() if self.config_name == "default" else UTMOS.from_pretrained(self.config_name)
        )

    def _compute(self, predictions, sampling_rate=16000):
        return measure_clips(["utmos"], lambda waveform: self.utmos(waveform, sampling_rate), predictions)
