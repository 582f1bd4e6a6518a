import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import train_token_fusion
import yaml
from sklearn.metrics import f1_score
from train_token_fusion import ClipItems, LabelledClips, balanced_weights, load_recipe, main, split_by_speaker
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from hf_affectcodec.data.clips import Clips
from hf_affectcodec.modeling.feature_extraction_token_fusion import TokenFusionFeatureExtractor
from hf_affectcodec.modeling.modeling_token_fusion import TokenFusionForAudioClassification


SPEAKERS = ("ada", "bob", "cleo")
PITCHES = {"calm": 150.0, "angry": 900.0}


@pytest.fixture
def study(tmp_path):
    """Three speakers, two classes that differ by pitch, one clip of another label; a random HuBERT; a recipe."""
    rows = {"audio": [], "emotion": [], "speaker_id": []}
    for speaker, (label, pitch), take in [
        *((s, item, take) for s in SPEAKERS for item in PITCHES.items() for take in range(5)),
        ("ada", ("none", 400.0), 0),
    ]:
        rng = np.random.default_rng(len(rows["audio"]))
        time = np.arange(4000 + 300 * take) / 16000
        wave = 0.3 * np.sign(np.sin(2 * np.pi * pitch * (0.9 + 0.05 * take) * time)) + 0.01 * rng.standard_normal(
            len(time)
        )
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, 16000, format="FLAC")
        rows["audio"].append({"bytes": buffer.getvalue(), "path": f"{speaker}-{label}-{take}.flac"})
        rows["emotion"].append(label)
        rows["speaker_id"].append(speaker)
    columns = {**rows, "audio": pa.array(rows["audio"], pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    pq.write_table(pa.table(columns), tmp_path / "voices.parquet")
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=1,
    )
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(tmp_path / "hubert")
    recipe = {
        "name": "tiny",
        "model": {
            "tokenizer_model": str(tmp_path / "hubert"),
            "tokenizer_layers": [0, 2],
            "num_streams": 2,
            "vocab_size": 8,
            "hidden_size": 16,
            "classifier_hidden_size": 16,
            "classifier_dropout": 0.1,
            "opensmile_fusion": "late",
        },
        "data": {
            "source": "{data_root}/voices.parquet",
            "column_map": {"audio": "audio", "label": "emotion", "speaker": "speaker_id"},
        },
        "labels": list(PITCHES),
        "opensmile_feature_set": "eGeMAPSv02",
        "kmeans_passes": 2,
        "epochs": 15,
        "batch_size": 5,
        "learning_rate": 0.01,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


def run(study, *options):
    arguments = ["--recipe", str(study / "recipe.yaml"), "--data-root", str(study)]
    main([*arguments, "--output-dir", str(study / "out"), *options])
    return json.loads((study / "out/results.json").read_text())


def test_all_folds_and_on_again(study, monkeypatch):
    first = run(study, "--fold", "1")
    assert first["folds"] == 1 and list(first["macro_f1_by_fold"]) == ["bob"]
    before = (study / "out/fold-01/predictions.json").read_bytes()
    monkeypatch.setattr(
        train_token_fusion.StreamCache, "fill", lambda cache, *_: all(p.exists() for p in cache.paths) or pytest.fail()
    )
    results = run(study)
    assert (study / "out/fold-01/predictions.json").read_bytes() == before
    assert results["folds"] == 3 and results["clips"] == 30  # the clip without a class is left out
    assert results["macro_f1_mean"] > 0.9  # pitch is not hard

    folds = [json.loads((study / f"out/fold-0{i}/predictions.json").read_text()) for i in range(3)]
    names = [name for fold in folds for name in fold["names"]]
    assert len(set(names)) == 30 and all(n.startswith(f["speakers"][0]) for f in folds for n in f["names"])
    predicted = [int(np.argmax(row)) for fold in folds for row in fold["logits"]]
    labels = [label for fold in folds for label in fold["labels"]]
    assert labels == [list(PITCHES).index(name.split("-")[1]) for name in names]
    assert results["macro_f1_all_clips"] == pytest.approx(f1_score(labels, predicted, average="macro"))

    # the saved model says of a waveform what the study said of the cached streams
    model = TokenFusionForAudioClassification.from_pretrained(study / "out/fold-02/model").eval()
    extractor = TokenFusionFeatureExtractor.from_pretrained(study / "out/fold-02/model")
    assert model.config.id2label == dict(enumerate(PITCHES)) and model.config.class_weights == [1.0, 1.0]
    rows = pq.read_table(study / "voices.parquet").to_pylist()
    audio = {
        row["audio"]["path"]: soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0] for row in rows
    }
    for name, logits in list(zip(folds[2]["names"], folds[2]["logits"], strict=True))[::3]:
        with torch.no_grad():
            found = model(**extractor(audio[name], sampling_rate=16000, return_tensors="pt")).logits[0]
        assert torch.allclose(found, torch.tensor(logits), atol=1e-3), name
    # openSMILE statistics are of the training speaker alone (fold 2 tests cleo, validates on ada)
    smile = [extractor.opensmile_features(wave) for name, wave in audio.items() if name.startswith("bob")]
    assert np.allclose(model.opensmile.scaler.mean, np.mean(smile, 0), rtol=1e-3, atol=1e-3)


def test_the_continuous_counterpart_is_a_line(study):
    options = ["--set", "model.quantized=false", "--set", "model.opensmile_fusion=none"]
    results = run(study, *options, "--set", "opensmile_feature_set=null", "--fold", "0")
    assert results["folds"] == 1
    model = TokenFusionForAudioClassification.from_pretrained(study / "out/fold-00/model")
    assert model.embeddings is None and model.opensmile is None and not model.scaler.std.eq(1).all()


def test_without_validation_the_next_speaker_is_trained_on_too(study):
    run(
        study, "--fold", "2", "--set", "validate=false", "--set", "max_cut_frames=3", "--set", "model.pooled_norm=true"
    )
    history = json.loads((study / "out/fold-02/predictions.json").read_text())["history"]
    assert len(history) == 15 and all(set(row) == {"epoch", "loss"} for row in history)
    model = TokenFusionForAudioClassification.from_pretrained(study / "out/fold-02/model")
    extractor = TokenFusionFeatureExtractor.from_pretrained(study / "out/fold-02/model")
    smile = {}
    for row in pq.read_table(study / "voices.parquet").to_pylist():
        if row["emotion"] in PITCHES:
            wave = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0]
            smile.setdefault(row["speaker_id"], []).append(extractor.opensmile_features(wave))
    # fold 2 tests cleo; ada, who would validate, is in the statistics beside bob
    assert np.allclose(model.opensmile.scaler.mean, np.mean(smile["ada"] + smile["bob"], 0), rtol=1e-3, atol=1e-3)

    arguments = ["--recipe", str(study / "recipe.yaml"), "--data-root", str(study), "--output-dir", str(study / "out")]
    main([*arguments, "--all-speakers", "--set", "validate=false", "--set", "epochs=1"])
    model = TokenFusionForAudioClassification.from_pretrained(study / "out/all/model")
    assert np.allclose(model.opensmile.scaler.mean, np.mean(sum(smile.values(), []), 0), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="`--all-speakers` needs `validate: false`"):
        main([*arguments, "--all-speakers"])


def test_cut_frames():
    """A training clip loses one stretch of at most 4 frames and a third; it is whole where nothing trains on it."""
    streams = [torch.arange(length)[:, None] for length in (20, 7, 2)]
    clips = LabelledClips(Clips([], 16000, []), [0, 0, 0], ["a"] * 3)
    items = ClipItems(clips, streams, [0, 1, 2], 4, np.random.default_rng(0))
    for row, (length, most) in enumerate(((20, 4), (7, 2), (2, 0))):
        sizes, firsts = set(), set()
        for _ in range(300):
            kept = items[row]["input_ids"][:, 0].tolist()
            lost = sorted(set(range(length)) - set(kept))
            assert kept == sorted(kept) and lost == list(range(lost[0], lost[-1] + 1) if lost else [])
            sizes.add(len(lost))
            firsts |= set(lost[:1])
        assert sizes == set(range(most + 1))
        assert firsts == (set(range(length)) if most else set())  # anywhere, the ends too
    whole = ClipItems(clips, streams, [0, 1, 2], 4)
    assert whole[0]["input_ids"].equal(streams[0])


def test_folds_keep_speakers_apart():
    speakers = [name for name in "dcbaabcd" for _ in range(2)]
    tested = []
    for fold in range(4):
        train, validation, test = split_by_speaker(speakers, fold)
        sides = [{speakers[i] for i in part} for part in (train, validation, test)]
        assert sides[2] == {"abcd"[fold]} and sides[1] == {"bcda"[fold]}
        assert sorted(train + validation + test) == list(range(16)) and len(sides[0]) == 2
        tested += test
    assert sorted(tested) == list(range(16))
    assert split_by_speaker(list("abcdef"), 1, 2) == ([0, 1], [4, 5], [2, 3])
    with pytest.raises(ValueError, match=r"`fold` must lie in 0\.\.3"):
        split_by_speaker(speakers, 4)
    with pytest.raises(ValueError, match="at least 3 folds"):
        split_by_speaker(list("aabb"), 0)


def test_balanced_weights():
    """N / (C n_c), of the challenge's baseline."""
    assert balanced_weights([0, 0, 0, 2], 3) == [4 / 9, 0.0, 4 / 3]


def test_bad_recipes_are_named(study):
    with pytest.raises(ValueError, match="unknown key 'epoch'"):
        load_recipe(study / "recipe.yaml", overrides=["epoch=3"])
    with pytest.raises(ValueError, match="`data.column_map` must name"):
        run(study, "--set", "data.column_map={audio: audio}")
    with pytest.raises(ValueError, match=r"`labels`: no clip has one of \['sad'\]"):
        run(study, "--set", "labels=[sad]")
