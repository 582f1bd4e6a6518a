"""Graph fusion's training: it learns a planted signal, skips what is done, and its recipes are the published ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import train_graph_fusion
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import save_file
from train_graph_fusion import GraphFusionRecipe, collate, fold_statistics, learning_rate, load_recipe

from hf_affectcodec.modeling.configuration_graph_fusion import FUSIONS, GraphFusionConfig
from hf_affectcodec.modeling.modeling_graph_fusion import GraphFusionForAudioClassification


RECIPES = Path(__file__).resolve().parents[2] / "training/recipes/graph_fusion"


@pytest.fixture
def features(tmp_path):
    """Three voices; the label is in the sign of a text channel and in the F0 tokens; half of the clips have no text."""
    generator = torch.Generator().manual_seed(0)
    rows, tensors = [], {"text": {}, "f0": {}}
    for index in range(48):
        label = int(torch.randint(2, (), generator=generator))
        rows.append({"name": f"{index}", "label": "ab"[label], "speaker": f"voice {index % 3}"})
        length = 3 + index % 4
        tensors["f0"][f"{index}"] = torch.full((length,), 2 + label)
        if index % 2:
            tensors["text"][f"{index}"] = torch.randn(length, 4, generator=generator) * 5 + 100 + 20 * label
    rows.append({"name": "other", "label": "c", "speaker": "voice 0"})
    for modality, values in tensors.items():
        save_file(values, tmp_path / f"{modality}.safetensors")
    (tmp_path / "items.json").write_text(json.dumps(rows))
    return tmp_path


def test_run(features, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: tiny\nlabels: [a, b]\nstandardize: [text]\nseq_aug: [text]\nepochs: 25\nbatch_size: 4\nwarmup_steps: 2\n"
        "learning_rate: 1.0e-2\nsampling: to_uniform\n"
        "model: {fusion: gat, feature_sizes: {text: 4}, token_sizes: {f0: 9}, fused_modalities: [text, f0],\n"
        "        hidden_size: 8, head_hidden_size: 8, dropout: 0.1}\n"
    )
    arguments = ["--recipe", str(recipe), "--features", str(features), "--output-dir", str(tmp_path / "out")]
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    train_graph_fusion.main([*arguments, "--fold", "0", "2"])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["num_clips"] == 32 and results["macro_f1_all_clips"] > 0.95
    assert list(results["macro_f1_by_fold"]) == ["voice 0", "voice 2"]
    fold = json.loads((tmp_path / "out/fold-02/predictions.json").read_text())
    assert fold["names"] == [str(index) for index in range(2, 48, 3)]
    model = GraphFusionForAudioClassification.from_pretrained(tmp_path / "out/fold-02/model")
    logits = model({"f0": torch.tensor([[2, 2, 2], [3, 3, 3]])}).logits
    assert [model.config.id2label[index] for index in logits.argmax(-1).tolist()] == ["a", "b"]
    done = (tmp_path / "out/fold-02/predictions.json").stat().st_mtime_ns
    train_graph_fusion.main([*arguments, "--fold", "2"])
    assert (tmp_path / "out/fold-02/predictions.json").stat().st_mtime_ns == done


def test_the_last_epoch_without_keep_best(features, tmp_path, monkeypatch):
    """A validation score that only falls: the first epoch is kept, or the last."""
    scores = iter([0.9, 0.5, 0.1] * 2)
    monkeypatch.setattr(train_graph_fusion, "macro_f1", lambda *_: next(scores))
    monkeypatch.setattr(train_graph_fusion, "train_step", lambda model, *_: count_up(model))

    def count_up(model):
        with torch.no_grad():
            model.absences["f0"].vector += 1
        return 0.0

    model = {"feature_sizes": {"text": 4}, "token_sizes": {"f0": 9}, "fused_modalities": ["text"], "hidden_size": 8}
    for keep_best, steps in ((True, 4), (False, 12)):
        recipe = GraphFusionRecipe("", model, ["a", "b"], epochs=3, batch_size=4, keep_best=keep_best, seq_aug=[])
        items = train_graph_fusion.FeatureItems(features, ["text", "f0"], recipe.labels)
        trained = train_graph_fusion.build_model(recipe, items, list(range(16)))
        trained, history = train_graph_fusion.train_model(trained, items, list(range(16)), [16, 17], recipe)
        assert trained.absences["f0"].vector.eq(steps).all() and len(history) == 3
    recipe.patience = 2
    with pytest.raises(ValueError, match="`patience` needs `keep_best`"):
        train_graph_fusion.train_model(trained, items, list(range(16)), [16, 17], recipe)


def test_groups_of_like_lengths():
    generator = np.random.default_rng(0)
    lengths = generator.permutation(70) + 1
    order = generator.permutation(70).tolist()
    grouped = train_graph_fusion.grouped_by_length(order, lengths, 4, generator)
    assert sorted(grouped) == list(range(70)) and grouped != order
    batches = [grouped[i : i + 4] for i in range(0, 70, 4)]
    # 32 clips of lengths 1 to 70, sorted: four neighbours of them are close; those drawn at random are not
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 12
    assert np.mean([np.ptp(lengths[order[i : i + 4]]) for i in range(0, 70, 4)]) > 30
    # which batch is next tells nothing of its length
    assert np.abs(np.diff([lengths[batch].mean() for batch in batches])).mean() > 12


def test_training_on_the_validation_speakers(features, tmp_path):
    model = {"feature_sizes": {"text": 4}, "token_sizes": {"f0": 9}, "fused_modalities": ["text"], "hidden_size": 8}
    recipe = GraphFusionRecipe("", model, ["a", "b"], epochs=1, seq_aug=[], train_on_validation=True, keep_best=False)
    items = train_graph_fusion.FeatureItems(features, ["text", "f0"], recipe.labels)
    trained, train_model = [], train_graph_fusion.train_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train_graph_fusion,
            "train_model",
            lambda m, i, train, *rest: trained.append(train) or train_model(m, i, train, *rest),
        )
        train_graph_fusion.run_fold(recipe, items, 0, tmp_path)
    assert trained == [[row for row in range(48) if row % 3]]
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert "validation_macro_f1" not in found["history"][0] and len(found["names"]) == 16
    recipe.keep_best = True
    with pytest.raises(ValueError, match="`keep_best` needs validation clips"):
        train_graph_fusion.run_fold(recipe, items, 0, tmp_path)


def test_pooled_statistics_are_scaled_by_the_training_clips(features):
    model = {"feature_sizes": {"text": 4}, "token_sizes": {"f0": 9}, "fused_modalities": ["text"], "hidden_size": 8}
    recipe = GraphFusionRecipe("", {**model, "pooled_statistics": True}, ["a", "b"], standardize=["text"])
    items = train_graph_fusion.FeatureItems(features, ["text", "f0"], recipe.labels)
    train = [row for row in range(48) if items.speakers[row] != "voice 1"]
    scaler = train_graph_fusion.build_model(recipe, items, train).statistics["text"].scaler
    clips = [items.features["text"][f"{row}"].numpy() for row in train if row % 2]
    pooled = np.stack([np.concatenate([clip.mean(0), clip.std(0)]) for clip in clips])
    np.testing.assert_allclose(scaler.mean.numpy(), pooled.mean(0), rtol=1e-4)
    np.testing.assert_allclose(scaler.std.numpy(), pooled.std(0, ddof=1), rtol=1e-3)


def test_collate_marks_what_is_there():
    config = GraphFusionConfig(feature_sizes={"text": 2}, token_sizes={"f0": 9}, fused_modalities=["text"])
    batch = collate([{"f0": torch.tensor([1, 2]), "labels": 1}, {"text": torch.ones(1, 2), "labels": 0}], config)
    assert batch["input_features"]["f0"].tolist() == [[1, 2], [8, 8]]
    assert {name: mask.tolist() for name, mask in batch["attention_mask"].items()} == {
        "text": [[False], [True]],
        "f0": [[True, True], [False, False]],
    }
    assert batch["labels"].tolist() == [1, 0]


def test_statistics_in_the_first_layer():
    linear = torch.nn.Linear(3, 2)
    x, mean, std = torch.randn(5, 3) * 4 + 100, torch.tensor([90.0, 100, 110]), torch.tensor([4.0, 2, 8])
    expected = linear((x - mean) / std)
    fold_statistics(linear, mean.double(), std.double())
    torch.testing.assert_close(linear(x), expected, rtol=1e-3, atol=1e-3)


def test_learning_rate_by_hand():
    recipe = GraphFusionRecipe("", {}, [], learning_rate=5e-5, min_learning_rate=1e-5, warmup_steps=4)
    # Cosine from step 4 to step 12: half way at 8.
    rates = [learning_rate(step, 12, recipe) for step in (0, 2, 4, 8, 12)]
    np.testing.assert_allclose(rates, [1e-5, 3e-5, 5e-5, 3e-5, 1e-5])


def test_recipes_of_the_small_study():
    settings = {}
    for path in [RECIPES / "whisper-base.yaml", *sorted((RECIPES / "voices").glob("*.yaml"))]:
        recipe = load_recipe(path)
        config = GraphFusionConfig(**recipe.model, num_labels=len(recipe.labels))
        settings[path.stem] = (config.fusion, config.modalities, recipe.epochs, recipe.batch_size)
    assert {fusion for fusion, *_ in settings.values()} == set(FUSIONS)
    assert len({tuple(budget) for _, _, *budget in settings.values()}) == 1
    assert settings["with-text"][1] == ["audio", "lld", "text", "f0"]


def test_recipes_are_the_twelve_published_runs():
    recipes = [load_recipe(path) for path in sorted((RECIPES / "is2025").glob("*.yaml"))]
    settings = set()
    for recipe in recipes:
        config = GraphFusionConfig(**recipe.model, num_labels=len(recipe.labels))
        assert (config.fusion, config.hidden_size, config.dropout, config.num_labels) == ("mdat", 512, 0.5, 8)
        assert (recipe.learning_rate, recipe.batch_size, recipe.epochs) == (5e-5, 8, 20)
        encoder = {1280: "whisper", 1024: "wavlm"}[config.feature_sizes["audio"]]
        settings.add((encoder, config.classification_loss, recipe.class_weighting, recipe.sampling))
    losses = ("cross_entropy", "focal")
    weightings = ((False, None), (True, None), (True, "constant"), (True, "to_uniform"), (True, "to_distribution"))
    expected = {("whisper", loss, *weighting) for loss in losses for weighting in weightings}
    assert settings == expected | {("wavlm", loss, True, None) for loss in losses} and len(recipes) == 12
