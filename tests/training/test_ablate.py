"""The ablation runner: recipes x seeds to one table, resumable."""

import json

import ablate
import pytest
from recipe import load_recipe
from test_train_codec import ROOT, SMOKE, data_root  # noqa: F401


def test_two_recipes_two_seeds(data_root, tmp_path, monkeypatch):  # noqa: F811
    other = tmp_path / "no-adversary.yaml"
    other.write_text(f"base: {SMOKE}\nname: no-adversary\ndiscriminator: null\n")
    arguments = ["--recipes", str(SMOKE), str(other), "--seeds", "0", "1", "--data-root", str(data_root)]
    (tmp_path / "held-out.yaml").write_text('data: "{data_root}/validation.parquet"\n')
    arguments += ["--evaluate", str(tmp_path / "held-out.yaml"), "--output-dir", str(tmp_path / "runs")]
    arguments += ["--set", "steps=4", "--set", "kmeans_steps=[0]", "--set", "discriminator_start=2"]
    ablate.main(arguments)
    rows = json.loads((tmp_path / "runs/table-held-out.json").read_text())
    assert [(row["recipe"], row["seeds"]) for row in rows] == [("smoke", 2), ("no-adversary", 2)]
    for row in rows:
        lsd = row["lsd"]
        assert lsd["low"] <= lsd["mean"] <= lsd["high"] and lsd["spread"] > 0 and lsd["n_failed"] == 0
        assert row["training_minutes"] > 0
    assert "| smoke | 2 |" in (tmp_path / "runs/table-held-out.md").read_text()

    monkeypatch.setattr(ablate.subprocess, "run", lambda *_, **__: pytest.fail("a finished run was trained again"))
    ablate.main(arguments)
    assert json.loads((tmp_path / "runs/table-held-out.json").read_text()) == rows


def test_table_5_has_its_eight_rows():
    stages = {}
    for path in sorted((ROOT / "training/recipes/codec/table5").glob("*.yaml")):
        recipe = load_recipe(path)
        assert recipe.name == path.stem and recipe.steps == load_recipe(path.parent / "../affectcodec-mini.yaml").steps
        weights = recipe.loss_weights
        stages[recipe.name] = (
            bool(recipe.model["guidance_sources"]),
            bool(weights.relational),
            bool(weights.alignment),
        )
    assert len(stages) == 8 and len(set(stages.values())) == 8
    assert stages["full"] == (True, True, True) and stages["eg-ew"] == (True, False, True)
