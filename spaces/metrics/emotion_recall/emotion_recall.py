"""Emotion recall, for `evaluate.load`."""

import functools

import datasets
import evaluate

from hf_affectcodec.metric_space import WAVEFORM, describe, named, vectors_of
from hf_affectcodec.metrics.emotion2vec import emotion2vec_probabilities, load_emotion2vec
from hf_affectcodec.metrics.emotion_recall import EmotionRecall, emotion_recall


_INPUTS = """
Args:
    predictions (list of arrays [T]): Recordings under test, full scale ±1.
    references (list of arrays [T]): Their originals.
    sampling_rate (int, optional): In Hz, 16000 by default.
    labels (list of str or None): Emotion of each original, in the recogniser's words.
    candidates (list of str, optional): Classes that may be predicted, all by default.

Returns:
    dict: for each of emotion_recall, emotion_recall_original and emotion_recall_agreement: NAME (mean), NAME_low,
    NAME_high (95 % bootstrap interval), NAME_n, NAME_n_failed; emotion_recall_unweighted, emotion_recall_per_class.
"""


class EmotionRecallMetric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(EmotionRecall),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": WAVEFORM, "references": WAVEFORM}),
            reference_urls=["https://arxiv.org/abs/2605.11098", "https://arxiv.org/abs/2312.15185"],
        )

    def _download_and_prepare(self, dl_manager):
        # `evaluate.load(..., "HUB_ID_OR_FOLDER")`
        self.model = load_emotion2vec() if self.config_name == "default" else load_emotion2vec(self.config_name)

    def _compute(self, predictions, references, labels, candidates=None, sampling_rate=16000):
        classify = functools.partial(emotion2vec_probabilities, self.model)
        originals, rebuilt = (vectors_of(classify, clips, sampling_rate) for clips in (references, predictions))
        found = emotion_recall(originals, rebuilt, labels, self.model.labels, candidates)
        return {
            **named("emotion_recall", found.recall),
            **named("emotion_recall_original", found.original_recall),
            **named("emotion_recall_agreement", found.agreement),
            "emotion_recall_unweighted": found.unweighted_recall,
            "emotion_recall_per_class": found.per_class,
        }
