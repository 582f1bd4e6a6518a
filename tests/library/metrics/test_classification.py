import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from hf_affectcodec.metrics.classification import classification_scores, multilabel_macro_f1


def slow_scores(references, predictions, classes):
    """Counted one item at a time."""
    f1, recall = {}, {}
    for name in classes:
        hits = sum(r == name and p == name for r, p in zip(references, predictions, strict=True))
        true = sum(r == name for r in references)
        said = sum(p == name for p in predictions)
        if true:
            f1[name] = 2 * hits / (true + said)
            recall[name] = hits / true
    accuracy = sum(r == p for r, p in zip(references, predictions, strict=True)) / len(references)
    return sum(f1.values()) / len(f1), sum(recall.values()) / len(recall), accuracy


def test_hand_worked():
    # angry: 3 true, 2 found, 1 false alarm. happy: 2 true, 1 found, 1 false alarm. sad: 1 true, missed.
    references = ["angry", "angry", "angry", "happy", "happy", "sad"]
    predictions = ["angry", "angry", "happy", "happy", "angry", "neutral"]
    scores = classification_scores(references, predictions, ["angry", "happy", "sad", "neutral"])
    assert scores.n == 6
    assert [scores.f1[name] for name in ("angry", "happy", "sad")] == pytest.approx([2 / 3, 1 / 2, 0])
    assert [scores.recall[name] for name in ("angry", "happy", "sad")] == pytest.approx([2 / 3, 1 / 2, 0])
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert scores.unweighted_accuracy == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert scores.weighted_accuracy == 0.5
    # neutral was said but never true: no recall, no F1, and not in the means.
    assert scores.absent == ["neutral"] and scores.support == {"angry": 3, "happy": 2, "sad": 1, "neutral": 0}
    assert math.isnan(scores.f1["neutral"]) and math.isnan(scores.recall["neutral"])


def test_random_labels_against_a_slow_count():
    rng = np.random.default_rng(0)
    classes = list("abcdef")
    for _ in range(20):
        references = rng.choice(classes[: rng.integers(2, 7)], size=30).tolist()
        predictions = [r if rng.random() < 0.5 else str(rng.choice(classes)) for r in references]
        scores = classification_scores(references, predictions, classes)
        measured = (scores.macro_f1, scores.unweighted_accuracy, scores.weighted_accuracy)
        assert measured == pytest.approx(slow_scores(references, predictions, classes))
        if not scores.absent:  # then it is scikit-learn's own macro average
            assert scores.macro_f1 == pytest.approx(f1_score(references, predictions, average="macro"))


def test_majority_guesses_are_seen_through():
    scores = classification_scores(["neutral"] * 9 + ["angry"], ["neutral"] * 10, ["neutral", "angry"])
    assert scores.weighted_accuracy == 0.9 and scores.unweighted_accuracy == 0.5
    assert scores.macro_f1 == pytest.approx(18 / 19 / 2)


def test_perfect_with_absent_classes_is_one():
    scores = classification_scores([1, 2, 2], [1, 2, 2], classes=[0, 1, 2, 3])
    assert scores.macro_f1 == scores.unweighted_accuracy == scores.weighted_accuracy == 1
    assert scores.absent == ["0", "3"]


def test_bad_labels():
    with pytest.raises(ValueError, match="`references` is empty"):
        classification_scores([], [], ["a"])
    with pytest.raises(ValueError, match="`predictions` must have one label an item, got 1 for 2"):
        classification_scores(["a", "a"], ["a"], ["a"])
    with pytest.raises(ValueError, match=r"`predictions`: \['b'\] are none of the classes"):
        classification_scores(["a"], ["b"], ["a"])
    with pytest.raises(ValueError, match="`classes` must have no repetitions"):
        classification_scores(["a"], ["a"], ["a", "a"])


def test_multilabel_hand_worked():
    references = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    predictions = [[1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    # class 0: 2 hits, 1 false alarm: 4/5. class 1: 1 hit, 1 miss, 1 false alarm: 1/2. classes 2 and 3: never true.
    assert multilabel_macro_f1(references, predictions) == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert multilabel_macro_f1(references, references) == 1
    # With one class an item it is the single-label score.
    labels, guesses = [0, 1, 2, 2, 1], [0, 2, 2, 1, 1]
    single = classification_scores(labels, guesses, classes=range(3)).macro_f1
    assert multilabel_macro_f1(np.eye(3)[labels], np.eye(3)[guesses]) == pytest.approx(single)


def test_multilabel_bad_input():
    with pytest.raises(ValueError, match=r"`predictions` must have the shape \[N, C\]"):
        multilabel_macro_f1([[1, 0]], [[1, 0, 0]])
    with pytest.raises(ValueError, match="`predictions` must hold 0 and 1 only"):
        multilabel_macro_f1([[1, 0]], [[0.4, 0.6]])
    with pytest.raises(ValueError, match="`references`: no item has any class"):
        multilabel_macro_f1([[0, 0]], [[1, 0]])
