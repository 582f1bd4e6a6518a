"""DNSMOS, for `evaluate.load`."""

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.dnsmos import DNSMOSScores, dnsmos


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings, full scale ±1. There are no references.
    sampling_rate (int, optional): In Hz, 16000 by default.

Returns:
    dict: for each of dnsmos_overall, dnsmos_signal, dnsmos_background and dnsmos_p808: NAME (mean), NAME_low,
    NAME_high (95 % bootstrap interval), NAME_n, NAME_n_failed, NAME_values; and dnsmos_overall_failures.
"""


class DNSMOS(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(dnsmos),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2110.01763"],
        )

    def _compute(self, predictions, sampling_rate=16000):
        names = [f"dnsmos_{field}" for field in DNSMOSScores._fields]
        return measure_clips(names, lambda waveform: dnsmos(waveform, sampling_rate), predictions)
