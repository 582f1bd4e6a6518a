"""Prosody similarity (Pros-SIM), for `evaluate.load`."""

import functools

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.prosody_similarity import prosody_similarity


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.

Returns:
    dict: prosody_similarity (mean), prosody_similarity_low, prosody_similarity_high (95 % bootstrap interval),
    prosody_similarity_n, prosody_similarity_n_failed, prosody_similarity_values, prosody_similarity_failures.
"""


class ProsodySimilarity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(prosody_similarity),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2605.11098", "https://arxiv.org/abs/2312.05187"],
        )

    def _download_and_prepare(self, dl_manager):
        # `evaluate.load(..., "FOLDER_OF_THE_COMPARATOR")`
        if self.config_name == "default":
            self.compare = prosody_similarity
            return
        from hf_affectcodec.metrics.autopcp import autopcp, load_autopcp

        self.compare = functools.partial(autopcp, model=load_autopcp(self.config_name))

    def _compute(self, predictions, references, sampling_rate=16000):
        def metric(reference, degraded):
            return self.compare(reference, degraded, sampling_rate)

        return measure_clips(["prosody_similarity"], metric, references, predictions)
