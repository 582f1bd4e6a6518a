"""Token consistency under slicing, for `evaluate.load`."""

import datasets
import evaluate
import torch

from hf_affectcodec.inference import load_codec
from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips
from hf_affectcodec.metrics.token_consistency import slice_consistency


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings at the codec's sampling rate, full scale ±1. There are no references.
    num_frames (int, optional): Frames a slice, 50 by default.
    margin (int, optional): Frames left out at both ends of each slice, 0 by default.

Returns:
    dict: token_consistency (mean), token_consistency_low, token_consistency_high (95 % bootstrap interval),
    token_consistency_n, token_consistency_n_failed, token_consistency_values, token_consistency_failures: the mean
    over codebooks; and the same fields but the last of token_consistency_1, _2, ..., one a codebook.
"""


class TokenConsistency(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(slice_consistency),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2409.19283"],
        )

    def _download_and_prepare(self, dl_manager):
        # `evaluate.load(..., "HUB_ID_OR_FOLDER")`
        self.codec = load_codec(None if self.config_name == "default" else self.config_name)

    def _compute(self, predictions, num_frames=50, margin=0):
        codec = self.codec

        def encode(waveform):
            return codec.encode(torch.from_numpy(waveform)[None]).audio_codes.numpy()

        def metric(waveform):
            shares = slice_consistency(encode, waveform, codec.model.hop_length, num_frames, margin=margin)
            return [shares.mean(), *shares]

        codebooks = range(1, codec.model.config.num_quantizers + 1)
        names = ["token_consistency", *(f"token_consistency_{index}" for index in codebooks)]
        return measure_clips(names, metric, predictions)
