"""
WER and WIL of transcripts, under one pinned text normaliser.

The normaliser decides as much as the recogniser: WER of one set of transcripts moves by half a point and more with it.
Here it is Whisper's (Radford et al., 2022, appendix C) as transformers ships it, see [`normalize`].
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from .statistics import CHUNK


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


def _wer(counts: np.ndarray) -> np.ndarray:
    """Of counts (H, S, D, I) in the last axis."""
    hits, substitutions, deletions, insertions = np.moveaxis(counts, -1, 0)
    return (substitutions + deletions + insertions) / (hits + substitutions + deletions)


def _wil(counts: np.ndarray) -> np.ndarray:
    """Of counts (H, S, D, I) in the last axis."""
    hits, substitutions, deletions, insertions = np.moveaxis(counts, -1, 0)
    # Without a word in the hypothesis H is 0, and so is the product.
    return 1 - hits**2 / ((hits + substitutions + deletions) * np.maximum(hits + substitutions + insertions, 1))


_RATES = {"wer": _wer, "wil": _wil}


def _counts(errors: Iterable[WordErrors], name: str) -> np.ndarray:
    counts = np.array(
        [(item.hits, item.substitutions, item.deletions, item.insertions) for item in errors], dtype=np.float64
    )
    if len(counts) < 2:
        raise ValueError(f"`{name}` must hold two utterances or more, got {len(counts)}")
    return counts


def _interval(errors, rate, seed: int, confidence: float, num_resamples: int) -> tuple[float, float]:
    counts = _counts(errors, "errors")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}")
    generator = np.random.default_rng(seed)
    rates = [rate(counts[drawn].sum(axis=1)) for drawn in _draws(generator, len(counts), len(counts), num_resamples)]
    low, high = np.quantile(np.concatenate(rates), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _draws(generator: np.random.Generator, high: int, size: int, num_resamples: int) -> Iterator[np.ndarray]:
    """Yields integers below `high`, [R, size], in pieces of bounded memory that make `num_resamples` rows together."""
    rows = max(1, CHUNK // size)
    for start in range(0, num_resamples, rows):
        yield generator.integers(high, size=(min(rows, num_resamples - start), size))


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
    return _interval(errors, _wer, seed, confidence, num_resamples)


def corpus_wil_interval(
    errors: Iterable[WordErrors], seed: int = 0, confidence: float = 0.95, num_resamples: int = 10_000
) -> tuple[float, float]:
    """The same interval of the corpus WIL."""
    return _interval(errors, _wil, seed, confidence, num_resamples)


@dataclass(frozen=True)
class RateDifference:
    """
    Args:
        difference (`float`): Rate of the first less that of the second.
        low, high (`float`): Bootstrap interval over utterances, drawn in pairs.
        p (`float`): Of the two-sided permutation test.
    """

    difference: float
    low: float
    high: float
    p: float


def corpus_rate_difference(
    first: Iterable[WordErrors],
    second: Iterable[WordErrors],
    rate: str = "wer",
    seed: int = 0,
    num_resamples: int = 10_000,
) -> RateDifference:
    """
    Two systems' corpus rates on the same utterances, compared in pairs. If the systems were alike, which of the two made
    a transcript would be a coin flip for each utterance: p is the share of ways to swap them, the observed one among
    them, whose |difference| is at least the observed one, `(1 + hits) / (1 + num_resamples)`.

    Args:
        first, second (iterable of [`WordErrors`]): One an utterance in the same order, two or more.
        rate (`str`, *optional*, defaults to `"wer"`): `"wer"` or `"wil"`.
        seed (`int`, *optional*, defaults to 0): Of NumPy's default generator.
        num_resamples (`int`, *optional*, defaults to 10000): Draws of the bootstrap and of the test.

    Returns:
        [`RateDifference`]

    Raises:
        ValueError: The numbers of utterances differ or are below two, or `rate` is another.
    """
    if rate not in _RATES:
        raise ValueError(f"`rate` must be one of {sorted(_RATES)}, got {rate!r}")
    of = _RATES[rate]
    first, second = _counts(first, "first"), _counts(second, "second")
    if first.shape != second.shape:
        raise ValueError(f"`second` must have one item an utterance of `first`, got {len(second)} and {len(first)}")
    generator = np.random.default_rng(seed)
    observed = of(first.sum(0)) - of(second.sum(0))
    resampled = [
        of(first[drawn].sum(axis=1)) - of(second[drawn].sum(axis=1))
        for drawn in _draws(generator, len(first), len(first), num_resamples)
    ]
    hits = 0
    for swapped in _draws(generator, 2, len(first), num_resamples):
        moved = swapped @ (second - first)
        differences = of(first.sum(0) + moved) - of(second.sum(0) - moved)
        hits += int((np.abs(differences) >= abs(observed) - 1e-12).sum())  # equal up to rounding
    low, high = np.quantile(np.concatenate(resampled), [0.025, 0.975])
    return RateDifference(float(observed), float(low), float(high), (1 + hits) / (1 + num_resamples))
