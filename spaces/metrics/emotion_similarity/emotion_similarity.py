"""Emotion similarity (Emo-SIM), for `evaluate.load`."""

import functools
import math

import datasets
import evaluate
import numpy as np

from hf_affectcodec.metric_space import WAVEFORM, describe, named, vectors_of
from hf_affectcodec.metrics.emotion_similarity import cosine_similarity, emotion_similarity, emotion_similarity_report


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.
    labels (list of str or None, optional): Emotion of each original. Needed for floor, AUC and the normalised value.
    speakers (list of str, optional): Speaker of each original.

Returns:
    dict: emotion_similarity (mean), emotion_similarity_low, emotion_similarity_high (95 % bootstrap interval),
    emotion_similarity_n, emotion_similarity_n_failed, emotion_similarity_values. With labels also those fields of
    emotion_similarity_floor, _same_emotion and _auc, and emotion_similarity_normalized.
"""


class EmotionSimilarity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(emotion_similarity),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2605.11098", "https://arxiv.org/abs/2312.15185"],
        )

    def _download_and_prepare(self, dl_manager):
        # `evaluate.load(..., "egemaps" or "HUB_ID_OR_FOLDER")`
        if self.config_name == "egemaps":
            from hf_affectcodec.metrics.egemaps import egemaps_embedding

            self.embed = egemaps_embedding
            return
        from hf_affectcodec.metrics.emotion2vec import emotion2vec_embedding, load_emotion2vec

        model = load_emotion2vec() if self.config_name == "default" else load_emotion2vec(self.config_name)
        self.embed = functools.partial(emotion2vec_embedding, model)

    def _compute(self, predictions, references, sampling_rate=16000, labels=None, speakers=None):
        originals, rebuilt = (vectors_of(self.embed, clips, sampling_rate) for clips in (references, predictions))
        given = [None] * len(originals) if labels is None else labels
        report = emotion_similarity_report(originals, rebuilt, given, speakers)
        measured = ~np.isnan(originals).any(axis=1) & ~np.isnan(rebuilt).any(axis=1)
        values = [
            cosine_similarity(*pair) if there else math.nan
            for *pair, there in zip(originals, rebuilt, measured, strict=True)
        ]
        result = {**named("emotion_similarity", report.similarity), "emotion_similarity_values": values}
        if labels is not None:
            for name in ("floor", "same_emotion", "auc"):
                result |= named(f"emotion_similarity_{name}", getattr(report, name))
            result["emotion_similarity_normalized"] = report.normalized
        return result
