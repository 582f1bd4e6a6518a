import numpy as np
import pytest
import torch

from hf_affectcodec.data.features import TeacherFeatures


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    samples = {"a": 16_000, "b": 3201, "silent": 321}
    values = {
        "emotion": {name: rng.standard_normal((-(-n // 320), 3)).astype(np.float16) for name, n in samples.items()},
        "text": {
            name: rng.standard_normal((n, 2)).astype(np.float16) for name, n in {"a": 7, "b": 2, "silent": 0}.items()
        },
    }
    return TeacherFeatures(values, samples, ["text"])


def test_a_crop_is_a_slice_of_the_whole(features):
    whole = features.crop("a")
    assert whole["emotion"].shape == (50, 3) and whole["text"].shape == (7, 2) and whole["text"].dtype == np.float32
    for start, length, first, last in [(0, 320, 0, 1), (320, 3200, 1, 11), (9600, 99_999, 30, 50), (640, 321, 2, 4)]:
        assert (features.crop("a", start, length)["emotion"] == whole["emotion"][first:last]).all()


def test_tokens_of_a_crop_are_those_of_its_frames(features):
    """Algorithm 1 looks frame t = 1..T' up at i0 = clip(floor(t n / T'), 1, n)."""
    for name, frames, n in (("a", 50, 7), ("b", 11, 2), ("silent", 2, 0)):
        whole = features.crop(name)["text"]
        for first in range(frames):
            for last in range(first + 1, frames + 1):
                tokens = sorted({min(max(t * n // frames, 1), n) for t in range(first + 1, last + 1)}) if n else []
                length = min(last * 320, features.num_samples[name]) - first * 320
                crop = features.crop(name, first * 320, length)["text"]
                assert (crop == whole[[i - 1 for i in tokens]]).all() and len(crop) == len(tokens)


def test_batch(features):
    batch = features.batch(["a", "b", "silent"], [3200, 0, 0], 6400)
    assert {key: list(value.shape) for key, value in batch.items()} == {
        "emotion": [3, 20, 3],
        "text": [3, 4, 2],
        "text_lengths": [3],
        "frame_mask": [3, 20],
    }
    assert batch["frame_mask"].sum(1).tolist() == [20, 11, 2] and batch["text_lengths"].tolist() == [4, 2, 0]
    assert torch.equal(batch["emotion"][0], torch.from_numpy(features.crop("a")["emotion"][10:30]))
    assert (batch["emotion"][~batch["frame_mask"]] == 0).all() and batch["emotion"].dtype == torch.float32


def test_standardized(features):
    statistics = {"emotion": {"mean": [1.0, 2.0, 3.0], "std": [2.0, 2.0, 4.0]}}
    scaled = TeacherFeatures(features.values, features.num_samples, ["text"], statistics)
    plain = features.crop("b")["emotion"]
    assert np.allclose(scaled.crop("b")["emotion"], (plain - [1, 2, 3]) / [2, 2, 4], atol=1e-6)
    batch = scaled.batch(["b"], [0], 6400)
    assert (batch["emotion"][0, 11:] == 0).all()  # padding stays zero


def test_bad_input(features, tmp_path):
    for name, start, length, words in [
        ("c", 0, 320, "`name`: there are no features of 'c'"),
        ("a", 100, 320, "`start` must be a multiple of 320"),
        ("a", -320, 320, "`start` must be a multiple of 320"),
        ("a", 16_000, 320, "`start` must be a multiple of 320"),
        ("a", 0, 0, "`num_samples` must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            features.crop(name, start, length)
    with pytest.raises(ValueError, match="has 50 frames of 'a', 16001 samples have 51"):
        TeacherFeatures(features.values, {**features.num_samples, "a": 16_001}, ["text"])
    with pytest.raises(ValueError, match="'emotion' lacks the clip 'c'"):
        TeacherFeatures(features.values, {**features.num_samples, "c": 1}, ["text"])
    with pytest.raises(ValueError, match="name \\['words'\\]"):
        TeacherFeatures(features.values, features.num_samples, ["words"])
    with pytest.raises(ValueError, match="manifest.json: no manifest"):
        TeacherFeatures.load(tmp_path)
