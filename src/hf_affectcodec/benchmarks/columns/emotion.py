"""Emo-SIM with what it has to be read against, and emotion recall."""

from collections.abc import Callable, Sequence

import numpy as np

from hf_affectcodec.metrics.emotion_recall import emotion_recall
from hf_affectcodec.metrics.emotion_similarity import EmotionSimilarityReport, emotion_similarity_report

from ..embeddings import embedding_row, paired_cosines, stack_embeddings
from ..measuring import Sample
from .kinds import Evaluated, FigureColumn, MeanColumn


class EmotionColumns:
    """
    A [`~..measuring.ColumnGroup`] of one table: cosine of the emotion embeddings of a clip and of what became of it. Its
    rows hold the embeddings.

    Args:
        embed (`Callable`): `(waveform [T], sampling_rate) -> [C]`.
        backend (`str`): What `embed` is, for the heading.
        protocol (`dict`): What it depends on.
        labels (sequence of `str` or `None`): Emotion of each clip. Where no clip has one, the floor is that of other
            clips of the same speaker, whatever their emotion, and there is no AUC.
        speakers (sequence of `str`, *optional*): Speaker of each clip.
        reference (`str`, *optional*, defaults to `"original"`): System that the others are compared with.
    """

    name, in_workers, missing = "emotion", False, {"embedding": None}

    def __init__(
        self,
        embed: Callable,
        backend: str,
        protocol: dict,
        labels: Sequence[str | None],
        speakers: Sequence[str] | None = None,
        reference: str = "original",
    ):
        self.embed, self.protocol = embed, protocol
        self.labelled = any(label is not None for label in labels)
        self.labels = list(labels) if self.labelled else [str(index) for index in range(len(labels))]
        self.speakers, self.reference = speakers, reference
        self._of_originals: EmotionSimilarityReport | None = None
        self.title = f"Emotion similarity ({backend})"
        self.columns = {
            "emo_sim": MeanColumn("Emo-SIM ↑", 3),
            "emo_sim_normalized": FigureColumn("(Emo-SIM - floor) / (1 - floor) ↑", 3),
        }

    def measure(self, system, sample: Sample) -> dict:
        return embedding_row(self.embed, sample.degraded, "emo_sim")

    def _report(self, references: list[dict], seed: int) -> EmotionSimilarityReport:
        """Of the originals against themselves: floor and AUC are theirs, whatever the system."""
        if self._of_originals is None:
            originals = stack_embeddings(references)
            self._of_originals = emotion_similarity_report(originals, originals, self.labels, self.speakers, seed)
        return self._of_originals

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        cosines = paired_cosines(stack_embeddings(references), stack_embeddings(rows))
        floor = self._report(references, seed).floor.mean
        similarity = np.nan if np.isnan(cosines).all() else float(np.nanmean(cosines))
        return Evaluated({"emo_sim": cosines}, {}, {"emo_sim_normalized": (similarity - floor) / (1 - floor)})

    def anchors(self, references: list[dict] | None, seed: int) -> dict:
        report = self._report(references, seed)
        if not self.labelled:
            return {
                "floor (other clips of the same speaker; the data names no emotions)": report.floor.mean,
                "ceiling (the clip itself)": report.ceiling,
            }
        labelled = len(self.labels) - sum(label is None for label in self.labels)
        return {
            "floor (clips of other emotions)": report.floor.mean,
            "other clips of the same emotion": report.same_emotion.mean,
            "ceiling (the clip itself)": report.ceiling,
            "AUC of same against other emotions": report.auc.mean,
            "labelled clips": str(labelled),
            "of them with a floor over the same speaker": str(report.num_same_speaker),
        }


class RecallColumns:
    """
    A [`~..measuring.ColumnGroup`]: how often a recogniser hears the labelled emotion. Its rows hold the classes'
    probabilities.

    Args:
        classify (`Callable`): `(waveform [T], sampling_rate) -> [K]`.
        class_names (sequence of `str`): The K classes.
        backend (`str`): What `classify` is, for the heading.
        protocol (`dict`): What it depends on.
        labels (sequence of `str` or `None`): Emotion of each clip in the recogniser's words.
        candidates (sequence of `str`, *optional*): Classes that may be predicted, all by default.
        reference (`str`, *optional*, defaults to `"original"`): System whose predictions the others' are compared with.
    """

    name, in_workers, missing = "recall", False, {"embedding": None}

    def __init__(
        self,
        classify: Callable,
        class_names: Sequence[str],
        backend: str,
        protocol: dict,
        labels: Sequence[str | None],
        candidates: Sequence[str] | None = None,
        reference: str = "original",
    ):
        self.classify, self.class_names, self.labels = classify, list(class_names), list(labels)
        self.candidates, self.reference = candidates, reference
        self.protocol = {**protocol, "candidates": candidates or self.class_names}
        self.title = f"Emotion recall ({backend})"
        self.columns = {
            "emotion_recall": MeanColumn("recall ↑", 3),
            "emotion_unweighted_recall": FigureColumn("unweighted recall ↑", 3),
            "emotion_agreement": MeanColumn("same class as the original ↑", 3),
        }

    def measure(self, system, sample: Sample) -> dict:
        return embedding_row(self.classify, sample.degraded, "emotion_recall")

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        scores, original_scores = self._scores(rows), self._scores(references)
        result = emotion_recall(original_scores, scores, self.labels, self.class_names, self.candidates, seed)
        allowed = [self.class_names.index(name) for name in self.candidates or self.class_names]
        predicted, expected = (
            [self._predicted(row[allowed], allowed) for row in s] for s in (scores, original_scores)
        )
        unlabelled = np.array([label is None for label in self.labels])
        return Evaluated(
            {
                "emotion_recall": [self._hit(a, b) for a, b in zip(predicted, self.labels, strict=True)],
                "emotion_agreement": [self._hit(a, b) for a, b in zip(predicted, expected, strict=True)],
            },
            {"emotion_recall": unlabelled},
            {"emotion_unweighted_recall": result.unweighted_recall},
        )

    def _scores(self, rows: list[dict]) -> np.ndarray:
        missing = np.full(len(self.class_names), np.nan)
        return np.array([missing if row["embedding"] is None else row["embedding"] for row in rows])

    def _predicted(self, scores: np.ndarray, allowed: list[int]) -> str | None:
        return None if np.isnan(scores).any() else self.class_names[allowed[int(scores.argmax())]]

    @staticmethod
    def _hit(predicted: str | None, wanted: str | None) -> float:
        return np.nan if predicted is None or wanted is None else float(predicted == wanted)

    def anchors(self, references: list[dict] | None, seed: int) -> dict:
        return {"chance": 1 / len(self.candidates or self.class_names)}
