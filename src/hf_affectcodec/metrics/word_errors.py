"""
WER and WIL of transcripts, under one pinned text normaliser.

The normaliser decides as much as the recogniser: WER of one set of transcripts moves by half a point and more with it.
Here it is Whisper's (Radford et al., 2022, appendix C) as transformers ships it, see [`normalize`].
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES


try:
    import jiwer
except ImportError as error:
    raise ImportError("WER needs the package `jiwer`: pip install 'hf-affectcodec[eval]'") from error


NORMALIZER = (
    "Whisper's, of transformers; en: English, no spelling table; others: basic, by letter for zh yue ja th lo my"
)
# Written without spaces between words. "Words" are letters (grapheme clusters) there, so that WER is a character error rate.
UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "my"})


@functools.cache
def _normalizer(language: str):
    if language not in LANGUAGES:
        raise ValueError(f"`language` must be a code of Whisper's (en, fr, ...), got {language!r}")
    if language == "en":
        # The table of British spellings is not part of transformers; checkpoints carry it. Without it a transcript's
        # `colour` is an error against `color`, alike for every system.
        return EnglishTextNormalizer({})
    return BasicTextNormalizer(split_letters=language in UNSPACED)


def normalize(text: str, language: str) -> list[str]:
    """
    Words of a text as they are compared.

    All languages: lower case; what stands in brackets or parentheses is dropped; punctuation and symbols become spaces;
    accents and other marks on letters stay. English moreover: contractions are written out (`won't`: `will not`), numbers
    become digits (`seventeen`: `17`), `uh`, `um` and the like go, marks on letters too. In other languages `ocho` and `8`
    are different words, so that WER of texts with numbers is too high there. Languages that write without spaces
    (`UNSPACED`) are compared letter by letter. Words without a letter or digit, which the English normaliser leaves of
    `...`, are dropped: that alone is ours.

    Args:
        text (`str`): Reference or transcript.
        language (`str`): Code of the language, one that Whisper knows: `"en"`, `"fr"`, ...

    Returns:
        `list[str]`: Words, none for a text of punctuation only.

    Raises:
        ValueError: The language is none of Whisper's codes.
    """
    return [word for word in _normalizer(language)(text).split() if any(map(str.isalnum, word))]


@dataclass(frozen=True)
class WordErrors:
    """
    Counts of an alignment with the fewest errors, of one utterance or, added up (`+`), of many. Where several alignments
    have as few, hits, and with them WIL, are those of the one that `jiwer` picks; WER is the same in all.

    Args:
        hits, substitutions, deletions, insertions (`int`): H, S, D, I.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "WordErrors") -> "WordErrors":
        return WordErrors(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def num_reference_words(self) -> int:
        """N = H + S + D."""
        return self.hits + self.substitutions + self.deletions

    @property
    def num_hypothesis_words(self) -> int:
        """P = H + S + I."""
        return self.hits + self.substitutions + self.insertions

    @property
    def num_errors(self) -> int:
        """S + D + I."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """
        Word error rate (S + D + I) / N: 0 and up, above 1 where more is inserted than there was. Lower is better. Not in
        per cent.
        """
        return self.num_errors / self.num_reference_words

    @property
    def wil(self) -> float:
        """
        Word information lost 1 - (H / N) (H / P) (Morris et al., 2004): 0 to 1, 1 for an empty transcript. Lower is
        better. Not in per cent.
        """
        if self.num_hypothesis_words == 0:
            return 1.0
        return 1 - self.hits**2 / (self.num_reference_words * self.num_hypothesis_words)


def word_errors(reference: str, hypothesis: str, language: str) -> WordErrors:
    """
    Errors of one transcript, aligned by `jiwer` (Levenshtein distance over words) after [`normalize`].

    Args:
        reference (`str`): What was said.
        hypothesis (`str`): The transcript. It may be empty: all words are deleted then.
        language (`str`): Code of the language, see [`normalize`].

    Returns:
        [`WordErrors`]

    Raises:
        ValueError: The reference has no words once normalised: there is no error rate then. Or the language is unknown.
    """
    words = normalize(reference, language)
    if not words:
        raise ValueError(f"`reference` has no words to compare: {reference!r}")
    result = jiwer.process_words(" ".join(words), " ".join(normalize(hypothesis, language)))
    return WordErrors(result.hits, result.substitutions, result.deletions, result.insertions)


def corpus_word_errors(errors: Iterable[WordErrors]) -> WordErrors:
    """
    Errors of a corpus, from which `wer` and `wil` are to be printed: counts are summed over utterances and divided once,
    so that every word weighs the same. The mean of utterances' own rates is another number, in which a one-word prompt
    weighs as much as a paragraph.

    Args:
        errors (iterable of [`WordErrors`]): One an utterance that could be measured.

    Raises:
        ValueError: There are none.
    """
    total = sum(errors, WordErrors())
    if total.num_reference_words == 0:
        raise ValueError("`errors` holds no utterance")
    return total


def corpus_wer_interval(
    errors: Iterable[WordErrors], seed: int = 0, confidence: float = 0.95, num_resamples: int = 10_000
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of the corpus WER: utterances are drawn with replacement, and errors and words summed
    over each draw (Bisani and Ney, 2004).

    Args:
        errors (iterable of [`WordErrors`]): One an utterance, two or more.
        seed (`int`, *optional*, defaults to 0): Of NumPy's default generator.
        confidence (`float`, *optional*, defaults to 0.95): Coverage, in (0, 1).
        num_resamples (`int`, *optional*, defaults to 10000): Resamples.

    Returns:
        `tuple[float, float]`: Low and high end.

    Raises:
        ValueError: Fewer than two utterances, or `confidence` is not in (0, 1).
    """
    counts = np.array([(item.num_errors, item.num_reference_words) for item in errors], dtype=np.float64)
    if len(counts) < 2:
        raise ValueError(f"`errors` must hold two utterances or more, got {len(counts)}")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}")
    generator = np.random.default_rng(seed)
    sums = np.stack([counts[generator.integers(len(counts), size=len(counts))].sum(0) for _ in range(num_resamples)])
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
