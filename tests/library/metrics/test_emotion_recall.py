import numpy as np
import pytest

from hf_affectcodec.metrics.emotion_recall import emotion_recall


CLASSES = ["angry", "happy", "sad"]


def one_hot(*names) -> np.ndarray:
    """Rows that predict these classes with .6, and NaN for None."""
    rows = np.full((len(names), 3), 0.2)
    for row, name in zip(rows, names, strict=True):
        row[...] = np.nan if name is None else row
        if name is not None:
            row[CLASSES.index(name)] = 0.6
    return rows


def test_worked_by_hand():
    labels = ["angry", "angry", "angry", "happy", "happy", None]
    result = emotion_recall(
        one_hot("angry", "angry", "sad", "happy", "sad", "sad"),
        one_hot("angry", "sad", "sad", "happy", None, "sad"),
        labels,
        CLASSES,
    )
    assert (result.recall.mean, result.recall.n, result.recall.n_failed) == (2 / 4, 4, 1)
    assert result.per_class == {"angry": pytest.approx(1 / 3), "happy": 1}  # no clip is labelled sad
    assert result.unweighted_recall == pytest.approx((1 / 3 + 1) / 2)
    assert (result.original_recall.mean, result.original_recall.n) == (3 / 5, 5)
    # The same prediction: clips 1, 3, 4 and the one without label, of five that both have one.
    assert (result.agreement.mean, result.agreement.n, result.agreement.n_failed) == (4 / 5, 5, 1)


def test_candidates():
    scores = np.array([[0.3, 0.2, 0.5], [0.1, 0.2, 0.7]])
    assert emotion_recall(scores, scores, ["angry", "happy"], CLASSES).recall.mean == 0
    restricted = emotion_recall(scores, scores, ["angry", "happy"], CLASSES, candidates=["happy", "angry"])
    assert restricted.recall.mean == 1
    assert restricted.agreement.mean == 1


def test_a_class_that_failed_altogether():
    result = emotion_recall(one_hot("angry", "sad"), one_hot("angry", None), ["angry", "sad"], CLASSES)
    assert np.isnan(result.per_class["sad"]) and np.isnan(result.unweighted_recall)
    assert result.recall.mean == 1 and result.recall.n_failed == 1


def test_a_guess_is_at_chance():
    rng = np.random.default_rng(0)
    labels = list(rng.choice(CLASSES, 1500))
    result = emotion_recall(rng.random((1500, 3)), rng.random((1500, 3)), labels, CLASSES)
    for value in (result.recall.mean, result.unweighted_recall, result.original_recall.mean, result.agreement.mean):
        assert value == pytest.approx(1 / 3, abs=0.04)


def test_refusals():
    rows = one_hot("angry", "sad")
    for arguments, words in [
        ((rows, rows, ["angry", "calm"], CLASSES), "`labels` has 'calm', which is no class"),
        ((rows, rows, ["angry", "sad"], CLASSES, ["calm"]), "`candidates` has 'calm', which is no class"),
        ((rows, rows, ["angry", "sad"], CLASSES, ["angry"]), "`candidates` lacks the label 'sad'"),
        ((rows, rows, [None, None], CLASSES, []), "`candidates` is empty"),
        ((rows, rows[:1], ["angry", "sad"], CLASSES), r"`rebuilt` must have shape \[2, 3\], got \[1, 3\]"),
        ((rows, [[0.1, np.nan, 0.2]] * 2, ["angry", "sad"], CLASSES), "`rebuilt` has rows that are NaN in part"),
    ]:
        with pytest.raises(ValueError, match=words):
            emotion_recall(*arguments)
