"""Macro-F1, unweighted and weighted accuracy of a classifier, with classes that do not occur said aloud."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


try:
    from sklearn.metrics import f1_score, precision_recall_fscore_support
except ImportError as error:
    raise ImportError("These scores need the package `scikit-learn`: pip install 'hf-affectcodec[eval]'") from error


@dataclass(frozen=True)
class ClassificationScores:
    """
    Args:
        n (`int`): Items.
        macro_f1 (`float`): Mean of `f1` over the classes that occur in the references, 0 to 1.
        unweighted_accuracy (`float`): UA: mean of `recall` over the same classes (balanced accuracy), 0 to 1; chance is
            one over their number.
        weighted_accuracy (`float`): WA: share of items that are right (plain accuracy), 0 to 1.
        f1, recall (`dict[str, float]`): By class, NaN for a class that does not occur in the references.
        support (`dict[str, int]`): Items of each class in the references.
        absent (`list[str]`): Classes that do not occur in the references, in the order given.
    """

    n: int
    macro_f1: float
    unweighted_accuracy: float
    weighted_accuracy: float
    f1: dict[str, float]
    recall: dict[str, float]
    support: dict[str, int]
    absent: list[str]


def classification_scores(references: Sequence, predictions: Sequence, classes: Sequence) -> ClassificationScores:
    """
    Scores of single-label classification, counted by scikit-learn:

        recall_c = TP_c / (TP_c + FN_c)    F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)    WA = sum_c TP_c / n

    The field's names are used: "weighted" accuracy weighs classes by how often they occur, which is plain accuracy;
    "unweighted" gives every class the same weight.

    A class without a single reference has no recall, and neither 0 nor 1 would be a measurement. It is NaN, is listed
    in `absent`, and does not enter the means; items wrongly given to it are errors of their own classes. scikit-learn's
    own default differs: it takes the classes that occur in references *or predictions*, the latter at F1 = 0, so that
    its mean depends on which mistakes a system makes. A class that occurs but is never predicted has F1 = 0 in both.

    Args:
        references (sequence [N]): True class of each item.
        predictions (sequence [N]): Predicted class of each item.
        classes (sequence [C]): All classes of the task, without repetition.

    Returns:
        [`ClassificationScores`]

    Raises:
        ValueError: There are no items, the lengths differ, a class is given twice, or a label is none of the classes.
    """
    references, predictions, classes = list(references), list(predictions), list(classes)
    if not references:
        raise ValueError("`references` is empty")
    if len(references) != len(predictions):
        raise ValueError(f"`predictions` must have one label an item, got {len(predictions)} for {len(references)}")
    index = {name: position for position, name in enumerate(classes)}
    if len(index) < len(classes):
        raise ValueError(f"`classes` must have no repetitions, got {classes}")
    for name, labels in (("references", references), ("predictions", predictions)):
        unknown = {str(label) for label in labels if label not in index}
        if unknown:
            raise ValueError(f"`{name}`: {sorted(unknown)} are none of the classes {classes}")

    true = np.array([index[label] for label in references])
    predicted = np.array([index[label] for label in predictions])
    _, recall, f1, support = precision_recall_fscore_support(
        true, predicted, labels=range(len(classes)), zero_division=0
    )
    occurs = support > 0
    return ClassificationScores(
        n=len(references),
        macro_f1=float(f1[occurs].mean()),
        unweighted_accuracy=float(recall[occurs].mean()),
        weighted_accuracy=float((true == predicted).mean()),
        f1=_by_class(classes, np.where(occurs, f1, np.nan)),
        recall=_by_class(classes, np.where(occurs, recall, np.nan)),
        support=_by_class(classes, support),
        absent=[str(name) for name, there in zip(classes, occurs, strict=True) if not there],
    )


def _by_class(classes: Sequence, values: np.ndarray) -> dict:
    return {str(name): value.item() for name, value in zip(classes, values, strict=True)}


def multilabel_macro_f1(references, predictions) -> float:
    """
    Macro-F1 where an item may have several classes at once, as in EMO-SUPERB, whose references and predictions are
    distributions over C classes, each cut at 1 / C by the caller.

    As in [`classification_scores`], a class that no reference has does not enter the mean.

    Args:
        references (array [N, C]): 1 where the item has the class, else 0.
        predictions (array [N, C]): The same, as predicted.

    Returns:
        `float`: 0 to 1.

    Raises:
        ValueError: The shapes differ or are not [N, C], an entry is neither 0 nor 1, or no reference has any class.
    """
    references, predictions = np.asarray(references), np.asarray(predictions)
    if references.ndim != 2 or references.shape != predictions.shape:
        raise ValueError(
            f"`predictions` must have the shape [N, C] of `references`, got {list(predictions.shape)} and"
            f" {list(references.shape)}"
        )
    for name, values in (("references", references), ("predictions", predictions)):
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"`{name}` must hold 0 and 1 only")
    references, predictions = references.astype(int), predictions.astype(int)
    occurs = references.any(axis=0)
    if not occurs.any():
        raise ValueError("`references`: no item has any class")
    return float(f1_score(references, predictions, average=None, zero_division=0)[occurs].mean())
