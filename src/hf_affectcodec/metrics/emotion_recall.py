"""
Emotion recall: how often a speech emotion recogniser hears the labelled emotion in what a codec made of a clip.

The AffectCodec paper (arXiv 2605.11098) reports "Recall" by emotion2vec and says neither which checkpoint, nor which of
its nine classes may be chosen, nor how classes are weighted. Here all three are stated by the caller or the result. The
recogniser errs on originals too, so its recall there, and how often it still hears what it heard there, go along.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .statistics import Summary, summarize


@dataclass(frozen=True)
class EmotionRecall:
    """
    Args:
        recall ([`Summary`]): Share of rebuilt clips whose predicted class is their label (weighted accuracy).
        unweighted_recall (`float`): Mean over the classes that occur as labels of the recall in each (UA, macro recall).
        per_class (`dict[str, float]`): Recall of each such class; NaN where all its clips failed.
        original_recall ([`Summary`]): The same as `recall` on the originals: what the recogniser can do.
        agreement ([`Summary`]): Share of clips whose predicted class is the one predicted on the original. Needs no
            label, so that it counts clips without one as well.
    """

    recall: Summary
    unweighted_recall: float
    per_class: dict[str, float]
    original_recall: Summary
    agreement: Summary


def emotion_recall(
    originals,
    rebuilt,
    labels: Sequence[str | None],
    class_names: Sequence[str],
    candidates: Sequence[str] | None = None,
    seed: int = 0,
) -> EmotionRecall:
    """
    Args:
        originals (array [N, K]): Class probabilities (or scores) of the original clips; a row of NaN where a clip could
            not be classified. [`~hf_affectcodec.metrics.emotion2vec.emotion2vec_probabilities`] gives such rows.
        rebuilt (array [N, K]): Of what a codec made of them, likewise.
        labels (sequence of `str` or `None`): Label of each clip, in the recogniser's words; `None`: it has none.
        class_names (sequence of `str`): The K classes of the recogniser.
        candidates (sequence of `str`, *optional*): Classes that may be predicted, all by default. With the labels of a
            corpus here, a recogniser of more classes is not punished for those that the corpus lacks; the two ways do
            not compare.
        seed (`int`, *optional*, defaults to 0): Of the bootstraps.

    Returns:
        [`EmotionRecall`]: Shares from 0 to 1, higher is better; chance is 1 / number of candidates for a recogniser
        that guesses.

    Raises:
        ValueError: Shapes do not fit, or a label or candidate is no class of the recogniser.
    """
    names = list(class_names)
    scores = {}
    for name, values in (("originals", originals), ("rebuilt", rebuilt)):
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (len(labels), len(names)):
            raise ValueError(f"`{name}` must have shape [{len(labels)}, {len(names)}], got {list(values.shape)}")
        missing = np.isnan(values).any(axis=1)
        if (missing & ~np.isnan(values).all(axis=1)).any():
            raise ValueError(f"`{name}` has rows that are NaN in part")
        scores[name] = values
    candidates = names if candidates is None else list(candidates)
    for argument, words in (("labels", [label for label in labels if label is not None]), ("candidates", candidates)):
        unknown = sorted(set(words) - set(names))
        if unknown:
            raise ValueError(f"`{argument}` has {unknown[0]!r}, which is no class of the recogniser: {names}")
    if not candidates:
        raise ValueError("`candidates` is empty")
    impossible = sorted({label for label in labels if label is not None} - set(candidates))
    if impossible:
        raise ValueError(f"`candidates` lacks the label {impossible[0]!r}: it could never be predicted")

    columns = [names.index(candidate) for candidate in candidates]
    predictions = {
        name: np.array(
            [None if np.isnan(row).any() else candidates[int(row[columns].argmax())] for row in values], dtype=object
        )
        for name, values in scores.items()
    }
    labels = np.array(labels, dtype=object)
    labelled = np.array([label is not None for label in labels], dtype=bool)
    hits = _matches(predictions["rebuilt"][labelled], labels[labelled])
    per_class = {}
    for name in names:
        of_class = hits[labels[labelled] == name]
        measured = of_class[~np.isnan(of_class)]
        if of_class.size:
            per_class[name] = float(measured.mean()) if measured.size else np.nan
    return EmotionRecall(
        recall=summarize(hits, seed),
        unweighted_recall=float(np.mean(list(per_class.values()))) if per_class else np.nan,
        per_class=per_class,
        original_recall=summarize(_matches(predictions["originals"][labelled], labels[labelled]), seed),
        agreement=summarize(_matches(predictions["rebuilt"], predictions["originals"]), seed),
    )


def _matches(predictions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """1 where they are equal, 0 where not, NaN where one of them is missing."""
    return np.array(
        [np.nan if a is None or b is None else float(a == b) for a, b in zip(predictions, wanted, strict=True)],
        dtype=np.float64,
    )
