import numpy as np
import pytest

from hf_affectcodec.metrics.statistics import bootstrap_interval
from hf_affectcodec.metrics.word_errors import (
    WordErrors,
    corpus_rate_difference,
    corpus_wer_interval,
    corpus_wil_interval,
    corpus_word_errors,
    normalize,
    word_errors,
)


def edit_distance(first, second):
    """By the textbook's table."""
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    table[:, 0], table[0] = range(len(first) + 1), range(len(second) + 1)
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return table[-1, -1]


def test_hand_worked():
    # "today" put in, sat -> sit, "very" and "old" lost.
    errors = word_errors("The cat sat on the very old mat.", "today the cat SIT on the mat!", "en")
    assert errors == WordErrors(hits=5, substitutions=1, deletions=2, insertions=1)
    assert (errors.num_reference_words, errors.num_hypothesis_words, errors.num_errors) == (8, 7, 4)
    assert errors.wer == pytest.approx(4 / 8)
    assert errors.wil == pytest.approx(1 - 5 / 8 * 5 / 7)


def test_errors_are_the_edit_distance():
    rng = np.random.default_rng(0)
    words = ["alpha", "bravo", "delta", "echo"]
    for _ in range(100):
        reference, hypothesis = (rng.choice(words, size=rng.integers(low, 9)).tolist() for low in (1, 0))
        errors = word_errors(" ".join(reference), " ".join(hypothesis), "en")
        assert errors.num_errors == edit_distance(reference, hypothesis)
        assert errors.num_reference_words == len(reference) and errors.num_hypothesis_words == len(hypothesis)


def test_ends_of_the_scale():
    assert word_errors("one two", "one two", "en").wer == word_errors("one two", "one two", "en").wil == 0
    nothing = word_errors("press the key", "", "en")
    assert nothing == WordErrors(deletions=3) and nothing.wer == nothing.wil == 1
    assert word_errors("no", "it is no wonder at all", "en").wer == 5


def test_a_corpus_sums_errors_and_does_not_average_rates():
    utterances = [word_errors("monday", "sunday", "en"), word_errors("a b c d e f g h i", "a b c d e f g h i", "en")]
    corpus = corpus_word_errors(iter(utterances))
    assert corpus.wer == 0.1 and np.mean([item.wer for item in utterances]) == 0.5
    assert corpus.wil == pytest.approx(1 - 0.9 * 0.9)
    with pytest.raises(ValueError, match="`errors` holds no utterance"):
        corpus_word_errors([])


@pytest.mark.parametrize(
    "text, language, words",
    [
        ("I won't dial seventeen, uh, buttons... Ok?", "en", "i will not dial 17 buttons ok"),
        ("Café [beep] (laughs)", "en", "cafe"),
        ("Your colour", "en", "your colour"),
        ("Pressez « 8 » : conférence, s'il vous plaît !", "fr", "pressez 8 conférence s il vous plaît"),
        ("Marque ocho.", "es", "marque ocho"),
        ("Нажмите 1 — ещё раз.", "ru", "нажмите 1 ещё раз"),
        ("你好,世界", "zh", "你 好 世 界"),
        ("...", "en", ""),
    ],
)
def test_normaliser(text, language, words):
    assert normalize(text, language) == words.split()


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="`reference` has no words to compare: ' ... '"):
        word_errors(" ... ", "hello", "en")
    for language in ("english", "en-US", ""):
        with pytest.raises(ValueError, match="`language` must be a code of Whisper's"):
            word_errors("hello", "hello", language)


def test_interval_of_equal_lengths_is_that_of_the_mean():
    # Where utterances are equally long, the corpus rate is the mean of their rates.
    rng = np.random.default_rng(0)
    errors = [WordErrors(hits=10 - k, substitutions=k) for k in rng.integers(0, 11, size=40)]
    low, high = corpus_wer_interval(errors, num_resamples=4000)
    assert (low, high) == pytest.approx(bootstrap_interval([item.wer for item in errors]), abs=0.01)
    assert (low, high) == corpus_wer_interval(errors, num_resamples=4000)
    assert low < corpus_word_errors(errors).wer < high
    with pytest.raises(ValueError, match="`errors` must hold two utterances or more, got 1"):
        corpus_wer_interval(errors[:1])
    with pytest.raises(ValueError, match="`confidence` must be between 0 and 1"):
        corpus_wer_interval(errors, confidence=95)


def random_errors(seed, wrong):
    """40 utterances of 3 to 9 words."""
    rng = np.random.default_rng(seed)
    words = rng.integers(3, 10, size=40)
    bad = rng.binomial(words, wrong)
    return [
        WordErrors(hits=int(n - k), substitutions=int(k), insertions=int(i))
        for n, k, i in zip(words, bad, rng.integers(0, 2, 40), strict=True)
    ]


def slow_rates(errors, num_resamples=1500, seed=3):
    """WER and WIL of resampled corpora, by the dataclass."""
    rng = np.random.default_rng(seed)
    corpora = [
        corpus_word_errors(errors[i] for i in rng.integers(len(errors), size=len(errors)))
        for _ in range(num_resamples)
    ]
    return np.array([(corpus.wer, corpus.wil) for corpus in corpora])


def test_intervals_are_those_of_a_slow_bootstrap():
    errors = random_errors(0, 0.2)
    low, high = np.quantile(slow_rates(errors), [0.025, 0.975], axis=0)
    assert corpus_wer_interval(errors) == pytest.approx((low[0], high[0]), abs=0.02)
    assert corpus_wil_interval(errors) == pytest.approx((low[1], high[1]), abs=0.02)
    assert corpus_wil_interval([WordErrors(deletions=2), WordErrors(deletions=3)]) == (1, 1)  # nothing was heard


def test_paired_difference_of_corpora():
    better, worse = random_errors(0, 0.1), random_errors(1, 0.3)
    for rate in ("wer", "wil"):
        result = corpus_rate_difference(worse, better, rate)
        of = [getattr(corpus_word_errors(errors), rate) for errors in (worse, better)]
        assert result.difference == pytest.approx(of[0] - of[1])
        assert result.low < result.difference < result.high
        assert result.p < 0.01
        mirrored = corpus_rate_difference(better, worse, rate)
        assert mirrored.difference == pytest.approx(-result.difference)
        same = corpus_rate_difference(better, better, rate)
        assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    # Two utterances of which the first system gets both wrong: two of the four swaps are as far apart, so p is near 1/2.
    wrong, right = [WordErrors(substitutions=2)] * 2, [WordErrors(hits=2)] * 2
    assert corpus_rate_difference(wrong, right).p == pytest.approx(1 / 2, abs=0.02)
    with pytest.raises(ValueError, match="`second` must have one item an utterance"):
        corpus_rate_difference(better, worse[1:])
    with pytest.raises(ValueError, match="`rate` must be one of"):
        corpus_rate_difference(better, worse, "cer")
