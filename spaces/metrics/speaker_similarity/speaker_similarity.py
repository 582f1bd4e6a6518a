"""Speaker similarity (SIM-O), for `evaluate.load`."""

import datasets
import evaluate
import numpy as np

from hf_affectcodec.metric_space import WAVEFORM, describe, measure_clips, vectors_of
from hf_affectcodec.metrics.speaker_similarity import XVectorEncoder, speaker_anchors, speaker_similarity


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.
    speakers (list of str, optional): Speaker of each original. Needed for the anchors.

Returns:
    dict: speaker_similarity (mean), speaker_similarity_low, speaker_similarity_high (95 % bootstrap interval),
    speaker_similarity_n, speaker_similarity_n_failed, speaker_similarity_values, speaker_similarity_failures. With
    speakers also speaker_similarity_different_speakers (the floor), _same_speaker and _auc, of the originals.
"""


class SpeakerSimilarity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(speaker_similarity),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2301.02111"],
        )

    def _download_and_prepare(self, dl_manager):
        # `evaluate.load(..., "ge2e" or "HUB_ID_OR_FOLDER")`
        if self.config_name == "ge2e":
            from hf_affectcodec.metrics.ge2e import GE2EEncoder

            self.encoder = GE2EEncoder()
        elif self.config_name == "default":
            self.encoder = XVectorEncoder.from_pretrained()
        else:
            self.encoder = XVectorEncoder.from_pretrained(self.config_name)

    def _compute(self, predictions, references, sampling_rate=16000, speakers=None):
        def metric(reference, degraded):
            return speaker_similarity(reference, degraded, sampling_rate, self.encoder)

        result = measure_clips(["speaker_similarity"], metric, references, predictions)
        if speakers is not None:
            embeddings = vectors_of(self.encoder, references, sampling_rate)
            there = ~np.isnan(embeddings).any(axis=1)
            known = [speaker for speaker, kept in zip(speakers, there, strict=True) if kept]
            anchors = speaker_anchors(embeddings[there], known)
            for name in ("different_speakers", "same_speaker", "auc"):
                result[f"speaker_similarity_{name}"] = getattr(anchors, name)
        return result
