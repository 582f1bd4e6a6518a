"""WER and WIL: against what was to be said, and against what the recogniser hears in the original."""

from collections.abc import Callable, Sequence

import numpy as np

from hf_affectcodec.metrics.word_errors import NORMALIZER, WordErrors, normalize, word_errors

from ..codecs import SAMPLING_RATE
from ..measuring import Sample
from .kinds import Evaluated, RateColumn


class WordColumns:
    """
    A [`~..measuring.ColumnGroup`]. Its rows hold transcripts; errors are counted when the table is made.

    Against the data set's texts the rates hold the recogniser's own errors as well, and differences of writing (`8` and
    `ocho`); the row of the originals says how many. Against the transcript of the original those are gone, and what both
    get wrong alike is no error.

    Args:
        transcribe (`Callable`): `(waveforms, sampling_rate, languages) -> texts`, see
            [`~hf_affectcodec.metrics.transcription.load_transcriber`].
        backend (`str`): What it is, for the heading.
        protocol (`dict`): What it depends on.
        texts (sequence of `str` or `None`, *optional*): What is said in each clip, where the data says it.
        languages (sequence of `str`): Code of each clip's language.
        reference (`str`, *optional*, defaults to `"original"`): System whose transcripts the others' are compared with;
            `None`: they are not.
    """

    name, in_workers, missing = "words", False, {"transcript": None}

    def __init__(
        self,
        transcribe: Callable,
        backend: str,
        protocol: dict,
        texts: Sequence[str | None] | None,
        languages: Sequence[str],
        reference: str | None = "original",
    ):
        self.transcribe, self.texts, self.languages, self.reference = transcribe, texts, list(languages), reference
        self.protocol = {**protocol, "normalizer": NORMALIZER}
        self.title = f"Words ({backend})"
        self.columns = {}
        if texts is not None:
            self.columns["wer"] = RateColumn("WER, texts of the data ↓", 3, "wer")
            self.columns["wil"] = RateColumn("WIL, texts of the data ↓", 3, "wil")
        if reference is not None:
            self.columns["wer_of_original"] = RateColumn("WER, transcript of the original ↓", 3, "wer")
            self.columns["wil_of_original"] = RateColumn("WIL, transcript of the original ↓", 3, "wil")

    def measure(self, system, sample: Sample) -> dict:
        try:
            (text,) = self.transcribe([sample.degraded], SAMPLING_RATE, [self.languages[sample.index]])
        except ValueError as error:
            return {"transcript": None, "failures": {"wer": str(error).replace("waveforms[0]", "waveform")}}
        return {"transcript": text, "failures": {}}

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        values, skipped = {}, {}
        heard = [row["transcript"] for row in rows]
        if self.texts is not None:
            values["wer"], skipped["wer"] = self._errors(self.texts, heard)
            values["wil"], skipped["wil"] = values["wer"], skipped["wer"]
        if self.reference is not None:
            expected = [row["transcript"] for row in references]
            failed = np.array([text is None for text in expected])
            values["wer_of_original"], nothing = self._errors(expected, heard)
            # Where the original has no transcript there is a failure, not nothing to measure.
            skipped["wer_of_original"] = nothing & ~failed
            values["wil_of_original"] = values["wer_of_original"]
            skipped["wil_of_original"] = skipped["wer_of_original"]
        return Evaluated(values, skipped, {})

    def _errors(
        self, wanted: Sequence[str | None], heard: Sequence[str | None]
    ) -> tuple[list[WordErrors | None], np.ndarray]:
        """Errors of each clip, and on which clips there are no words to compare with."""
        errors, skipped = [], []
        for expected, text, language in zip(wanted, heard, self.languages, strict=True):
            empty = expected is None or not normalize(expected, language)
            skipped.append(empty)
            errors.append(None if empty or text is None else word_errors(expected, text, language))
        return errors, np.array(skipped)

    def anchors(self, references: list[dict] | None, seed: int) -> dict:
        return {}
