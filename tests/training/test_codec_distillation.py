"""Training with teachers: the right frames, the three terms, resume, and encoding without teachers afterwards."""

import json

import numpy as np
import pytest
import torch
import train_codec
from codec_distillation import TeacherCrops, guidance_arguments
from recipe import TeacherSource, load_recipe
from test_train_codec import SMOKE, assert_same, data_root, run, weights  # noqa: F401

from hf_affectcodec import AffectCodecModel
from hf_affectcodec.data.clips import RandomCrops
from hf_affectcodec.data.features import TeacherFeatures


SIZES = {"emotion": 6, "semantic": 5, "text": 8}
RECIPE = f"""
base: {SMOKE}
name: distilled
model: {{guidance_sources: [emotion, semantic], guidance_num_heads: 4, emotion_feature_size: 6, semantic_feature_size: 5,
  alignment_feature_size: 8, self_guidance: true, self_guidance_hidden_size: 8}}
teachers: {{folder: unused, emotion: emotion, semantic: semantic, text: text}}
loss_weights: {{relational: 1.0, alignment: 1.0, self_guidance: 1.0}}
steps: 12
discriminator_start: 6
"""


def planted_features(lengths: dict[str, int]) -> TeacherFeatures:
    """Frame t of clip c holds (c, t, ...), so that a crop shows where it was cut."""
    values = {teacher: {} for teacher in SIZES}
    for number, (name, samples) in enumerate(lengths.items()):
        frames = -(-samples // 320)
        for teacher, size in SIZES.items():
            rows = frames if teacher != "text" else 4 + number
            array = np.random.default_rng(number).standard_normal((rows, size))
            array[:, 0], array[:, 1] = number, np.arange(rows)
            values[teacher][name] = array.astype(np.float16)
    return TeacherFeatures(values, lengths, token_teachers=["text"])


@pytest.fixture
def cache(monkeypatch):
    """Features for whatever clips the training data holds, in place of a folder on disk."""
    known = {}
    original = train_codec.load_data

    def load_data(sources, sampling_rate):
        waveforms, names = original(sources, sampling_rate)
        known.update({name: len(waveform) for name, waveform in zip(names, waveforms, strict=True)})
        return waveforms, names

    monkeypatch.setattr(train_codec, "load_data", load_data)
    monkeypatch.setattr(TeacherFeatures, "load", classmethod(lambda cls, *_: planted_features(known)))


def test_crops_bring_their_own_frames(monkeypatch):
    clips = [np.zeros(samples, np.int16) for samples in (40_000, 9_000, 23_456)]
    lengths = {f"clip{i}": len(clip) for i, clip in enumerate(clips)}
    monkeypatch.setattr(TeacherFeatures, "load", classmethod(lambda cls, *_: planted_features(lengths)))
    crops = TeacherCrops(
        RandomCrops(clips, 16_000, 8, start_multiple=320),
        list(lengths),
        TeacherSource("x", "emotion", "semantic", "text"),
    )
    seen = set()
    for step in range(20):
        batch = crops[step]
        assert batch["emotion_features"].shape == (8, 50, 6) and batch["text_features"].shape[0] == 8
        for row, (clip, start) in enumerate(zip(batch["clip_index"].tolist(), batch["start"].tolist(), strict=True)):
            seen.add(clip)
            frames = -(-int(batch["padding_mask"][row].sum()) // 320)
            assert (batch["emotion_features"][row, :frames, 0] == clip).all()
            assert batch["emotion_features"][row, :frames, 1].tolist() == [start // 320 + t for t in range(frames)]
            assert (batch["emotion_features"][row, frames:] == 0).all()
            assert (batch["text_features"][row, : int(batch["text_lengths"][row]), 0] == clip).all()
    assert seen == {0, 1, 2}
    with pytest.raises(ValueError, match="lacks 1 clips"):
        TeacherCrops(RandomCrops(clips, 16_000, 8), [*lengths, "stranger"], TeacherSource("x", "emotion"))
    with pytest.raises(ValueError, match="no teacher"):
        TeacherCrops(RandomCrops(clips, 16_000, 8), list(lengths), TeacherSource("x"))


def test_all_three_stages_train_and_resume(data_root, tmp_path, cache):  # noqa: F811
    recipe = tmp_path / "distilled.yaml"
    recipe.write_text(RECIPE)
    run(tmp_path / "a", data_root, "--recipe", str(recipe))
    run(tmp_path / "b", data_root, "--recipe", str(recipe), "--stop-at", "7")
    run(tmp_path / "b", data_root, "--recipe", str(recipe), "--resume")
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    rows = [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()]
    for name in ("relational", "alignment", "self_guidance"):
        values = [row[name] for row in rows if name in row]
        assert len(values) == 3 and all(np.isfinite(values)) and values[0] > 0
    model = AffectCodecModel.from_pretrained(tmp_path / "a/model").eval()
    # W_m starts at zero; that it has left zero shows that guidance took part.
    assert float(model.guidance.back_proj.weight.abs().max()) > 0
    waveform = torch.randn(1, 1, 3200) * 0.3
    with torch.no_grad():
        assert not torch.equal(model.encode(waveform).latents, model.encode(waveform, guidance_source="none").latents)


def test_share_of_self_guided_steps(data_root, tmp_path):  # noqa: F811
    recipe = tmp_path / "distilled.yaml"
    recipe.write_text(RECIPE)
    loaded = load_recipe(recipe, overrides=["self_guided_share=0.25"])

    class Trainer:
        recipe = loaded
        accelerator = type("A", (), {"unwrap_model": staticmethod(lambda model: model)})
        model = type("M", (), {"config": type("C", (), loaded.model)})

    batch = {"emotion_features": 1, "semantic_features": 2}
    sources = []
    for step in range(2000):
        Trainer.progress = type("P", (), {"step": step})
        sources.append(guidance_arguments(Trainer, batch)["guidance_source"])
    assert 0.22 < sources.count("self") / 2000 < 0.28
    assert guidance_arguments(Trainer, {}) == {}


def test_distillation_without_teachers_is_an_error(tmp_path):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(f"base: {SMOKE}\nname: bad\nloss_weights: {{relational: 1.0}}\n")
    with pytest.raises(ValueError, match="teachers"):
        load_recipe(recipe)
    for changes, name in (
        (["teachers.emotion=null", "teachers.semantic=null"], "relational"),
        (["teachers.text=null"], "alignment"),
        (["model.alignment_feature_size=null"], "alignment"),
        (["model.self_guidance=false"], "self_guidance"),
        (["relational_emotion=0.0", "relational_semantic=0.0"], "relational_semantic"),
        (["relational_emotion=0.0", "teachers.semantic=null"], "relational_semantic"),
        (["loss_weights.feature_distillation=1.0"], "feature_distillation_sources"),
        (
            [
                "loss_weights={feature_distillation: 1.0}",
                "model.feature_distillation_sources=[semantic]",
                "teachers.semantic=null",
            ],
            "feature_distillation_sources",
        ),
        (["teachers.emotion=null", "loss_weights.relational=0.0"], "alignment_by_emotion"),
        (["mixed_precision=fp16"], "mixed_precision"),
    ):
        recipe.write_text(RECIPE)
        with pytest.raises(ValueError, match=name):
            load_recipe(recipe, overrides=changes)
