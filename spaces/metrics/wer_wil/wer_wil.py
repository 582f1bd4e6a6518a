"""WER and WIL under one pinned text normaliser, for `evaluate.load`."""

import math
from dataclasses import asdict

import datasets
import evaluate

from hf_affectcodec.metric_space import describe
from hf_affectcodec.metrics.word_errors import (
    NORMALIZER,
    WordErrors,
    corpus_wer_interval,
    corpus_word_errors,
    word_errors,
)


_INPUTS = """
Args:
    predictions (list of str): Transcripts.
    references (list of str): What was said.
    languages (str or list of str, optional): Whisper's code of the language, of all or of each; "en" by default.

Returns:
    dict: wer (of the corpus), wer_low, wer_high (95 % bootstrap interval), wil, wer_n, wer_n_failed, wer_values,
    wer_failures, and the counts hits, substitutions, deletions, insertions.
"""


class WERAndWIL(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=f"{describe(word_errors)}\n\nNormaliser: {NORMALIZER}",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=[],
        )

    def _compute(self, predictions, references, languages="en"):
        languages = [languages] * len(references) if isinstance(languages, str) else languages
        errors, values, failures = [], [], {}
        for index, (reference, hypothesis, language) in enumerate(
            zip(references, predictions, languages, strict=True)
        ):
            try:
                found = word_errors(reference, hypothesis, language)
            except ValueError as error:
                values.append(math.nan)
                failures[index] = str(error)
                continue
            errors.append(found)
            values.append(found.wer)
        total = corpus_word_errors(errors) if errors else WordErrors()
        low, high = corpus_wer_interval(errors) if len(errors) > 1 else (math.nan, math.nan)
        return {
            "wer": total.wer if errors else math.nan,
            "wer_low": low,
            "wer_high": high,
            "wil": total.wil if errors else math.nan,
            "wer_n": len(errors),
            "wer_n_failed": len(failures),
            "wer_values": values,
            "wer_failures": failures,
            **asdict(total),
        }
