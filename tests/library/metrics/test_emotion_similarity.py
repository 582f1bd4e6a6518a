import numpy as np
import pytest

from hf_affectcodec.metrics.emotion_similarity import (
    area_under_curve,
    cosine_similarity,
    emotion_similarity,
    emotion_similarity_report,
)
from hf_affectcodec.metrics.statistics import bootstrap_interval


def at(*degrees) -> np.ndarray:
    """Vectors in the plane, of unequal length, at these angles: their cosines are known by hand."""
    angles = np.deg2rad(np.array(degrees, dtype=float))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]


def test_cosine():
    assert cosine_similarity([3.0, 4.0], [6.0, 8.0]) == pytest.approx(1)
    assert cosine_similarity([1.0, 0.0], [0.0, 2.0]) == 0
    assert cosine_similarity([1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]) == pytest.approx(2 / np.sqrt(14 * 2))
    with pytest.raises(ValueError, match="`second` is zero"):
        cosine_similarity([1.0, 0.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="`second` must have 2 channels as `first`, got 3"):
        cosine_similarity([1.0, 0.0], [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="`first` holds values that are NaN"):
        cosine_similarity([np.nan, 0.0], [1.0, 0.0])


def test_area_under_curve():
    assert area_under_curve([2.0, 3.0], [0.0, 1.0]) == 1
    assert area_under_curve([0.0], [1.0]) == 0
    assert area_under_curve([1.0, 1.0], [1.0]) == 0.5
    rng = np.random.default_rng(0)
    positives, negatives = rng.integers(0, 6, 30) + 1, rng.integers(0, 6, 40)
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert area_under_curve(positives, negatives) == pytest.approx(wins / 1200)
    with pytest.raises(ValueError, match="`negatives` is empty"):
        area_under_curve([1.0], [])


def test_report_worked_by_hand():
    originals = at(0, 60, 90, 180)
    labels = ["angry", "angry", "happy", "happy"]
    speakers = ["a", "a", "a", "b"]
    report = emotion_similarity_report(originals, at(0, 90, 150, 180), labels, speakers)
    # Rebuilt clips are 0, 30, 60 and 0 degrees away.
    assert report.similarity.mean == pytest.approx((1 + np.sqrt(3) / 2 + 0.5 + 1) / 4)
    # Other emotions of the speaker are 90 | 30 | 90 and 30 degrees away; b has but one emotion: 180 and 120 degrees.
    floors = [0, np.sqrt(3) / 2, np.sqrt(3) / 4, (-1 - 0.5) / 2]
    assert report.floor.mean == pytest.approx(np.mean(floors))
    assert (report.floor.low, report.floor.high) == pytest.approx(bootstrap_interval(floors))
    assert report.num_same_speaker == 3
    # The two angry clips are 60 degrees apart; neither happy clip has another of its speaker.
    assert (report.same_emotion.mean, report.same_emotion.n_failed) == (pytest.approx(0.5), 2)
    # 60 degrees is nearer than 90 for the first clip, and further than 30 for the second.
    assert (report.auc.mean, report.auc.n, report.auc.n_failed) == (0.5, 2, 2)
    assert report.normalized == pytest.approx((report.similarity.mean - np.mean(floors)) / (1 - np.mean(floors)))


def test_report_against_loops():
    rng = np.random.default_rng(0)
    n = 40
    originals, rebuilt = rng.standard_normal((2, n, 5))
    labels = list(rng.choice(["angry", "happy", "sad"], n))
    speakers = list(rng.choice(["a", "b"], n))
    labels[3] = labels[17] = None
    originals[5] = rebuilt[9] = np.nan
    report = emotion_similarity_report(originals, rebuilt, labels, speakers)

    floors, takes, aucs, similarities = [], [], [], []
    for i in range(n):
        if i not in (5, 9):
            similarities.append(cosine_similarity(originals[i], rebuilt[i]))
        if i in (3, 17, 5):
            continue
        same, other = [], []
        for j in range(n):
            if j == i or j in (3, 17, 5) or speakers[i] != speakers[j]:
                continue
            (same if labels[i] == labels[j] else other).append(cosine_similarity(originals[i], originals[j]))
        floors.append(np.mean(other))
        takes.append(np.mean(same))
        aucs.append(np.mean([a > b for a in same for b in other]))
    assert (report.similarity.n, report.similarity.n_failed) == (38, 2)
    assert report.similarity.mean == pytest.approx(np.mean(similarities))
    for summary, values in ((report.floor, floors), (report.same_emotion, takes), (report.auc, aucs)):
        assert (summary.n, summary.n_failed) == (37, 1)  # of 38 labelled clips
        assert summary.mean == pytest.approx(np.mean(values))
    assert report.num_same_speaker == 37


@pytest.fixture(scope="module")
def corpus():
    """Four voices with three emotions, ten takes each: a large vector of the voice and a small one of the emotion."""
    rng = np.random.default_rng(0)
    voices, emotions = rng.standard_normal((4, 32)), rng.standard_normal((3, 32))
    voice, emotion, _ = (index.ravel() for index in np.indices((4, 3, 10)))
    noise = rng.standard_normal((120, 32))
    return (
        3 * voices[voice],
        emotions[emotion],
        noise,
        [f"emotion {e}" for e in emotion],
        [f"voice {v}" for v in voice],
    )


def test_what_the_report_tells_of_an_embedding(corpus):
    voice, emotion, noise, labels, speakers = corpus
    good = voice + emotion + 0.1 * noise
    report = emotion_similarity_report(good, good, labels, speakers)
    assert report.similarity.mean == pytest.approx(1) and report.normalized == pytest.approx(1)
    assert report.auc.mean > 0.99
    assert report.floor.mean < report.same_emotion.mean < 1
    # An embedding of the voice alone: every cosine is high, and none of it is about emotion.
    blind = voice + 0.1 * noise
    report = emotion_similarity_report(blind, blind, labels, speakers)
    assert report.floor.mean > 0.95
    assert report.auc.mean == pytest.approx(0.5, abs=0.05)
    # Without the speakers its floor is that of other voices: too low, as partners must be of the same voice.
    assert emotion_similarity_report(blind, blind, labels).floor.mean < 0.5


def test_a_codec_that_swaps_emotions_is_at_the_floor(corpus):
    voice, emotion, noise, labels, speakers = corpus
    original = voice + emotion + 0.1 * noise
    swapped = voice + np.roll(emotion.reshape(4, 3, 10, 32), 1, axis=1).reshape(120, 32) + 0.1 * noise[::-1]
    report = emotion_similarity_report(original, swapped, labels, speakers)
    assert report.similarity.mean > 0.7  # looks well
    assert report.normalized == pytest.approx(0, abs=0.1)


def test_refusals():
    vectors = at(0, 30)
    with pytest.raises(ValueError, match="`labels` must have one value a clip, got 1 for 2"):
        emotion_similarity_report(vectors, vectors, ["angry"])
    with pytest.raises(ValueError, match=r"`rebuilt` must have shape \[2, 2\], got \[1, 2\]"):
        emotion_similarity_report(vectors, vectors[:1], ["angry", "happy"])
    with pytest.raises(ValueError, match="`originals` has a row of zeros, clip 1"):
        emotion_similarity_report([[1.0, 0.0], [0.0, 0.0]], vectors, ["angry", "happy"])
    with pytest.raises(ValueError, match="`rebuilt` holds infinite values, or rows that are NaN in part"):
        emotion_similarity_report(vectors, [[1.0, np.nan], [1.0, 0.0]], ["angry", "happy"])
    empty = emotion_similarity_report(vectors, vectors, [None, None])
    assert np.isnan(empty.floor.mean) and empty.similarity.n == 2


def test_of_two_clips(speech, add_noise):
    pytest.importorskip("opensmile")
    from hf_affectcodec.metrics.egemaps import egemaps_embedding

    values = [emotion_similarity(speech, add_noise(speech, snr), 16000, egemaps_embedding) for snr in (30, 20, 10, 0)]
    assert 1 > values[0] > values[1] > values[2] > values[3]
    assert emotion_similarity(speech, speech, 16000, egemaps_embedding) == pytest.approx(1)
    with pytest.raises(ValueError, match="^`degraded` is silent"):
        emotion_similarity(speech, np.zeros_like(speech), 16000, egemaps_embedding)
    with pytest.raises(ValueError, match="^`reference` must have at least 960 samples"):
        emotion_similarity(speech[:900], speech, 16000, egemaps_embedding)
