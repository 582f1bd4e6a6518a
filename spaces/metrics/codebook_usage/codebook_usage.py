"""Codebook usage, perplexity and entropy rate, for `evaluate.load`."""

import datasets
import evaluate
import numpy as np

from hf_affectcodec.metric_space import describe
from hf_affectcodec.metrics.codebook_usage import codebook_usage, count_codes


_INPUTS = """
Args:
    predictions (list of arrays [Q, F]): Codes of each clip, without padding.
    codebook_size (int, optional): K, 1024 by default.
    frame_rate (float, optional): Frames a second, for the entropy rate.

Returns:
    dict: usage, perplexity, entropy, num_frames: one value a codebook, of all clips together; with frame_rate also
    entropy_rate.
"""


class CodebookUsageMetric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(codebook_usage),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Sequence(datasets.Value("int64")))}),
            reference_urls=[],
        )

    def _compute(self, predictions, codebook_size=1024, frame_rate=None):
        found = codebook_usage(count_codes([np.array(codes) for codes in predictions], codebook_size))
        result = {name: getattr(found, name).tolist() for name in ("usage", "perplexity", "entropy", "num_frames")}
        if frame_rate is not None:
            result["entropy_rate"] = found.entropy_rate(frame_rate).tolist()
        return result
