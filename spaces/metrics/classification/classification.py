"""Macro-F1, unweighted and weighted accuracy, for `evaluate.load`."""

from dataclasses import asdict

import datasets
import evaluate

from hf_affectcodec.metric_space import describe
from hf_affectcodec.metrics.classification import classification_scores


_INPUTS = """
Args:
    predictions (list of str): Predicted class of each item.
    references (list of str): Its true class.
    classes (list of str, optional): All classes of the task; by default those that occur in references or predictions.

Returns:
    dict: macro_f1, unweighted_accuracy, weighted_accuracy, n; f1, recall and support by class; absent.
"""


class Classification(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=describe(classification_scores),
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=[],
        )

    def _compute(self, predictions, references, classes=None):
        classes = sorted({*references, *predictions}) if classes is None else classes
        return asdict(classification_scores(references, predictions, classes))
