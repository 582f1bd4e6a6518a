"""
Emotion similarity (Emo-SIM): the cosine between utterance embeddings of a clip and of what a codec made of it.

The AffectCodec paper (arXiv 2605.11098) reports it with emotion2vec
([`~hf_affectcodec.metrics.emotion2vec.emotion2vec_embedding`]); the stand-in that needs no download is the z-scored
eGeMAPS functionals ([`~hf_affectcodec.metrics.egemaps.egemaps_embedding`]). Values of different embeddings do not
compare.

A cosine means nothing by itself: embeddings of one speaker with different emotions are often above .9 alike. A mean is
therefore printed with what [`emotion_similarity_report`] finds on the originals of the same clips.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .statistics import Summary, summarize


def cosine_similarity(first, second) -> float:
    """
    `sum_c x_c y_c / (|x| |y|)`.

    Args:
        first, second (array [C]): Embeddings.

    Returns:
        `float`: -1 to 1 (the same direction).

    Raises:
        ValueError: The shapes differ or are not [C], a value is not finite, or a vector is zero.
    """
    vectors = []
    for name, vector in (("first", first), ("second", second)):
        vector = np.asarray(vector, dtype=np.float64)
        if vector.ndim != 1:
            raise ValueError(f"`{name}` must be an embedding of shape [C], got shape {list(vector.shape)}")
        if not np.isfinite(vector).all():
            raise ValueError(f"`{name}` holds values that are NaN or infinite")
        if not vector.any():
            raise ValueError(f"`{name}` is zero: its direction is undefined")
        vectors.append(vector / np.linalg.norm(vector))
    if vectors[0].shape != vectors[1].shape:
        raise ValueError(f"`second` must have {vectors[0].size} channels as `first`, got {vectors[1].size}")
    return float(np.clip(vectors[0] @ vectors[1], -1.0, 1.0))


def emotion_similarity(reference, degraded, sampling_rate: int, embed: Callable[..., np.ndarray]) -> float:
    """
    The cosine between the embeddings of both clips. They need not have one length, nor be aligned.

    Args:
        reference (array [T]): The original, full scale ±1.
        degraded (array [T2]): The signal under test.
        sampling_rate (`int`): In Hz, as `embed` wants it.
        embed (`Callable`): `(waveform [T], sampling_rate) -> [C]`: `egemaps_embedding`, or
            `functools.partial(emotion2vec_embedding, load_emotion2vec())`.

    Returns:
        `float`: -1 to 1 (identical clips). Higher is better.

    Raises:
        ValueError: A clip has no embedding; the message names which.
    """
    embeddings = []
    for name, waveform in (("reference", reference), ("degraded", degraded)):
        try:
            embeddings.append(embed(waveform, sampling_rate))
        except ValueError as error:
            raise ValueError(str(error).replace("`waveform`", f"`{name}`")) from error
    return cosine_similarity(*embeddings)


@dataclass(frozen=True)
class EmotionSimilarityReport:
    """
    Args:
        similarity ([`Summary`]): Original against rebuilt: the Emo-SIM of the codec.
        floor ([`Summary`]): Original against originals of *other* emotions: what an embedding gives a clip whose emotion
            is wrong.
        same_emotion ([`Summary`]): Original against *other* originals of its emotion: another take.
        auc ([`Summary`]): For a clip, the chance that one of its emotion is more similar than one of another emotion
            (ties count half): what the embedding is worth as a measure of emotion. .5 is nothing, 1 is all.
        num_same_speaker (`int`): Clips whose floor is over the same speaker, as it should be; the floor of the others is
            over all speakers, which makes it lower.
        ceiling (`float`): 1: a clip against itself.

    The floor, the same emotion and the AUC are properties of the embedding on these originals, the same for every
    codec. Each is averaged over the partners of a clip first; intervals are bootstraps over clips.
    """

    similarity: Summary
    floor: Summary
    same_emotion: Summary
    auc: Summary
    num_same_speaker: int
    ceiling: float = 1.0

    @property
    def normalized(self) -> float:
        """`(similarity - floor) / (ceiling - floor)`, of the means: 0 at the floor, 1 for an untouched emotion."""
        return (self.similarity.mean - self.floor.mean) / (self.ceiling - self.floor.mean)


def emotion_similarity_report(
    originals, rebuilt, labels: Sequence[str | None], speakers: Sequence[str] | None = None, seed: int = 0
) -> EmotionSimilarityReport:
    """
    Emo-SIM with its floor, its ceiling and what it is worth.

    Args:
        originals (array [N, C]): Embeddings of the originals; a row of NaN where a clip has none.
        rebuilt (array [N, C]): Embeddings of what a codec made of them, likewise.
        labels (sequence of `str` or `None`): Emotion of each clip. A clip without label counts for the similarity only.
        speakers (sequence of `str`, *optional*): Speaker of each clip. With it, partners are of the same speaker; only
            for the floor of a clip whose speaker has one emotion they are of any speaker. Without it, all clips are
            taken for one speaker's.
        seed (`int`, *optional*, defaults to 0): Of the bootstraps.

    Returns:
        [`EmotionSimilarityReport`]: Clips without an embedding, and for floor, takes and AUC labelled clips without
        partners, are in `n_failed`.

    Raises:
        ValueError: The numbers of clips differ, or an embedding is zero, infinite or in part NaN.
    """
    originals, rebuilt = _unit_rows(originals, "originals"), _unit_rows(rebuilt, "rebuilt")
    if rebuilt.shape != originals.shape:
        raise ValueError(f"`rebuilt` must have shape {list(originals.shape)}, got {list(rebuilt.shape)}")
    num_clips = len(originals)
    for name, values in (("labels", labels), ("speakers", speakers)):
        if values is not None and len(values) != num_clips:
            raise ValueError(f"`{name}` must have one value a clip, got {len(values)} for {num_clips} clips")
    labels = np.array(labels, dtype=object)
    labelled = np.array([label is not None for label in labels], dtype=bool)
    usable = labelled & ~np.isnan(originals).any(axis=1)
    speakers = np.array([""] * num_clips if speakers is None else speakers, dtype=object)

    floor, same_emotion, auc = (np.full(int(labelled.sum()), np.nan) for _ in range(3))
    num_same_speaker = 0
    for row, clip in enumerate(np.flatnonzero(labelled)):
        if not usable[clip]:
            continue
        cosines = np.clip(originals @ originals[clip], -1.0, 1.0)
        same_speaker, same_label = speakers == speakers[clip], labels == labels[clip]
        others = usable & (np.arange(num_clips) != clip)
        takes = cosines[others & same_speaker & same_label]
        mismatched = cosines[others & same_speaker & ~same_label]
        if takes.size:
            same_emotion[row] = takes.mean()
        if takes.size and mismatched.size:
            auc[row] = area_under_curve(takes, mismatched)
        if mismatched.size:
            num_same_speaker += 1
        else:
            mismatched = cosines[others & ~same_label]
        if mismatched.size:
            floor[row] = mismatched.mean()
    return EmotionSimilarityReport(
        similarity=summarize(np.clip((originals * rebuilt).sum(axis=1), -1.0, 1.0), seed),
        floor=summarize(floor, seed),
        same_emotion=summarize(same_emotion, seed),
        auc=summarize(auc, seed),
        num_same_speaker=num_same_speaker,
    )


def area_under_curve(positives, negatives) -> float:
    """
    Area under the ROC curve: the share of pairs (positive, negative) in which the positive is larger, ties half.

    Args:
        positives (array [N]): Scores that should be high, N >= 1.
        negatives (array [M]): Scores that should be low, M >= 1.

    Returns:
        `float`: 0 to 1; .5 where the two are alike.

    Raises:
        ValueError: One of them is empty.
    """
    positives, negatives = np.asarray(positives), np.sort(np.asarray(negatives))
    if not positives.size or not negatives.size:
        raise ValueError(f"`{'positives' if not positives.size else 'negatives'}` is empty")
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).mean() / 2 / negatives.size)


def _unit_rows(embeddings, name: str) -> np.ndarray:
    """[N, C] scaled to unit length; rows of NaN stay."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    if embeddings.ndim != 2:
        raise ValueError(f"`{name}` must have shape [N, C], got shape {list(embeddings.shape)}")
    missing = np.isnan(embeddings).all(axis=1)
    if not np.isfinite(embeddings[~missing]).all():
        raise ValueError(f"`{name}` holds infinite values, or rows that are NaN in part")
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if (norms == 0).any():
        raise ValueError(
            f"`{name}` has a row of zeros, clip {int(np.flatnonzero(norms == 0)[0])}: it has no direction"
        )
    return embeddings / norms
