"""Fine-tuning of a tiny WavLM: what is trained, what is saved, and that it learns."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from tiny_ser import SPEECH
from train_ser_backbone import build_model, collate, load_recipe, main, parameter_groups, predict
from train_token_fusion import load_labelled
from transformers import AutoModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel, pipeline


SPEAKERS = ("ada", "bob", "cleo")
PITCHES = {"calm": 150.0, "angry": 900.0}


@pytest.fixture
def study(tmp_path):
    """Three speakers, two classes that differ by pitch; a random WavLM of the large layout; a recipe."""
    rows = {"audio": [], "emotion": [], "speaker_id": []}
    for speaker in SPEAKERS:
        for label, pitch in PITCHES.items():
            for take in range(4):
                rng = np.random.default_rng(len(rows["audio"]))
                time = np.arange(3200 + 400 * take) / 16000
                wave = 0.3 * np.sign(np.sin(2 * np.pi * pitch * (0.9 + 0.05 * take) * time))
                wave += 0.01 * rng.standard_normal(len(time))
                buffer = io.BytesIO()
                soundfile.write(buffer, wave, 16000, format="FLAC")
                rows["audio"].append({"bytes": buffer.getvalue(), "path": f"{speaker}-{label}-{take}.flac"})
                rows["emotion"].append(label)
                rows["speaker_id"].append(speaker)
    columns = {**rows, "audio": pa.array(rows["audio"], pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    pq.write_table(pa.table(columns), tmp_path / "voices.parquet")
    torch.manual_seed(0)
    config = WavLMConfig(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True, num_buckets=8)
    config.layerdrop = config.hidden_dropout = config.attention_dropout = config.activation_dropout = 0.0
    config.apply_spec_augment = False
    WavLMModel(config).save_pretrained(tmp_path / "wavlm")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "wavlm")
    recipe = {
        "name": "tiny",
        "encoder": str(tmp_path / "wavlm"),
        "data": {
            "source": "{data_root}/voices.parquet",
            "column_map": {"audio": "audio", "label": "emotion", "speaker": "speaker_id"},
        },
        "labels": list(PITCHES),
        "model": {"classifier_hidden_size": 16, "classifier_dropout": 0.1, "pooling_hidden_size": 8},
        "epochs": 14,
        "batch_size": 4,
        "accumulation_steps": 1,
        "learning_rate": 0.005,
        "head_learning_rate": 0.02,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("tuning", ["full", "frozen_cnn", "lora"])
def test_what_is_trained_and_saved(study, tuning):
    arguments = ["--recipe", str(study / "recipe.yaml"), "--data-root", str(study), "--output-dir", str(study / "out")]
    main([*arguments, "--fold", "1", "--set", f"tuning={tuning}"])
    fold = json.loads((study / "out/fold-01/predictions.json").read_text())
    losses = [epoch["loss"] for epoch in fold["history"]]
    assert losses[-1] < 0.7 * losses[0] and fold["speakers"] == ["bob"]
    predicted = np.argmax(fold["logits"], 1).tolist()
    assert sum(a == b for a, b in zip(predicted, fold["labels"], strict=True)) >= 7  # pitch is not hard

    before = AutoModel.from_pretrained(study / "wavlm").state_dict()
    after = AutoModel.from_pretrained(study / "out/fold-01/model/encoder").state_dict()
    assert before.keys() == after.keys()  # LoRA is merged
    changed = {name for name in before if not before[name].equal(after[name])}
    if tuning == "lora":
        assert changed and all("intermediate_dense.weight" in n or "output_dense.weight" in n for n in changed)
    else:
        convolutions = {name for name in changed if name.startswith("feature_extractor")}
        assert bool(convolutions) == (tuning == "full") and any("q_proj" in name for name in changed)

    classifier = pipeline("audio-classification", model=str(study / "out/fold-01/model"), device="cpu")
    rows = {row["audio"]["path"]: row["audio"]["bytes"] for row in pq.read_table(study / "voices.parquet").to_pylist()}
    for name, logits in list(zip(fold["names"], fold["logits"], strict=True))[::3]:
        waveform, rate = soundfile.read(io.BytesIO(rows[name]), dtype="float32")
        found = {row["label"]: row["score"] for row in classifier({"array": waveform, "sampling_rate": rate})}
        expected = torch.tensor(logits).softmax(0).tolist()
        # the feature extractor fills the last frame up with silence
        assert found == pytest.approx(dict(zip(PITCHES, expected, strict=True)), abs=0.05), name


@pytest.mark.parametrize("tuning", ["full", "frozen_cnn", "lora"])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_every_trained_weight_has_a_gradient(study, tuning, checkpointing):
    """Adapters of the attention's projections would not: WavLM takes their weights past them."""
    overrides = [f"tuning={tuning}", f"activation_checkpointing={checkpointing}"]
    recipe = load_recipe(study / "recipe.yaml", str(study), overrides)
    model, extractor = build_model(recipe, [0, 1])
    clips = load_labelled(recipe.data, recipe.labels)
    items = [(clips.clips.waveforms[row].astype(np.float32) / 32768, clips.labels[row]) for row in (0, 5, 9)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    batch = collate(items, extractor)
    model.train()(**batch).loss.backward()
    groups = {id(p) for group in parameter_groups(model, recipe) for p in group["params"]}
    idle = ("masked_spec_embed", "embeddings")  # of self-supervision, and of quantised input
    for name, parameter in model.named_parameters():
        assert (id(parameter) in groups) == parameter.requires_grad
        if parameter.requires_grad and not any(word in name for word in idle):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    # the batch's logits are those of the clips alone, padding or not
    with torch.no_grad():
        together = model.eval()(**batch).logits
        for row, (waveform, label) in enumerate(items):
            alone = model(**collate([(waveform, label)], extractor)).logits[0]
            assert (alone - together[row]).abs().max() < 1e-4
    before = [p.requires_grad for p in model.parameters()]
    assert predict(model, extractor, clips, [0, 5]).shape == (2, 2)
    assert [p.requires_grad for p in model.parameters()] == before


def test_bad_recipes_are_named(study, monkeypatch):
    with pytest.raises(ValueError, match="`tuning` must be one of"):
        load_recipe(study / "recipe.yaml", str(study), ["tuning=half"])
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"LoRA needs `peft`: pip install 'hf-affectcodec\[train\]'$"):
        build_model(load_recipe(study / "recipe.yaml", str(study), ["tuning=lora"]), [0, 1])


def test_the_recipe_is_the_challenges_baseline():
    path = Path(__file__).resolve().parents[2] / "training/recipes/ser_backbone/wavlm-large.yaml"
    recipe = load_recipe(path, "data")
    assert recipe.encoder == "microsoft/wavlm-large" and recipe.tuning == "frozen_cnn" and len(recipe.labels) == 8
    assert recipe.batch_size * recipe.accumulation_steps == 32 and recipe.epochs == 20 and recipe.seed == 7
    assert recipe.learning_rate == recipe.head_learning_rate == 1e-5 and recipe.max_seconds == 12.0
