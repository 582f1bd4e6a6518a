"""The ablation runner: recipes x seeds to one table, resumable."""

import json

import ablate
import numpy as np
import pytest
from recipe import load_recipe
from test_train_codec import ROOT, SMOKE, data_root  # noqa: F401


def test_two_recipes_two_seeds(data_root, tmp_path, monkeypatch):  # noqa: F811
    other = tmp_path / "no-adversary.yaml"
    other.write_text(f"base: {SMOKE}\nname: no-adversary\ndiscriminator: null\n")
    arguments = ["--recipes", str(SMOKE), str(other), "--seeds", "0", "1", "--data-root", str(data_root)]
    (tmp_path / "held-out.yaml").write_text('data: "{data_root}/validation.parquet"\n')
    arguments += ["--evaluate", str(tmp_path / "held-out.yaml"), "--output-dir", str(tmp_path / "runs")]
    arguments += ["--compare-to", "smoke"]
    arguments += ["--set", "steps=4", "--set", "kmeans_steps=[0]", "--set", "discriminator_start=2"]
    ablate.main(arguments)
    rows = json.loads((tmp_path / "runs/table-held-out.json").read_text())
    assert [(row["recipe"], row["seeds"]) for row in rows] == [("smoke", 2), ("no-adversary", 2)]
    for row in rows:
        lsd = row["lsd"]
        assert lsd["low"] <= lsd["mean"] <= lsd["high"] and lsd["spread"] > 0 and lsd["n_failed"] == 0
        assert row["training_minutes"] > 0
    assert "| smoke | 2 |" in (tmp_path / "runs/table-held-out.md").read_text()

    found = json.loads((tmp_path / "runs/differences-held-out.json").read_text())
    assert list(found) == ["no-adversary"]
    expected = rows[1]["lsd"]["mean"] - rows[0]["lsd"]["mean"]
    assert found["no-adversary"]["lsd"]["difference"] == pytest.approx(expected, abs=1e-6)
    assert np.mean(found["no-adversary"]["lsd"]["by_seed"]) == pytest.approx(expected, abs=1e-6)
    assert "Difference to smoke" in (tmp_path / "runs/table-held-out.md").read_text()

    monkeypatch.setattr(ablate.subprocess, "run", lambda *_, **__: pytest.fail("a finished run was trained again"))
    ablate.main(arguments)
    assert json.loads((tmp_path / "runs/table-held-out.json").read_text()) == rows


def test_differences_between_recipes(tmp_path):
    """Planted: one recipe is .5 better on every clip, one differs by the seed only, one clip could not be measured."""
    generator = np.random.default_rng(0)
    base = generator.normal(size=(2, 40))
    values = {
        "base": base,
        "better": base + 0.5 + generator.normal(scale=0.1, size=base.shape),
        "luck": base + np.array([[0.3], [-0.3]]) + generator.normal(scale=0.1, size=base.shape),
    }
    values["better"][0, 7] = np.nan
    lines = [
        json.dumps({"system": f"{name}-seed{seed}", "clip": clip, "lsd": None if np.isnan(value) else value})
        for name, seeds in values.items()
        for seed, row in enumerate(seeds)
        for clip, value in enumerate(row)
    ]
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(reversed(lines)) + "\n")
    folders = {name: [tmp_path / f"{name}-seed{seed}" for seed in (0, 1)] for name in values}
    found = ablate.differences(ablate.read_clips(path, folders, ["lsd", "pesq"]), "base")
    assert set(found) == {"better", "luck"} and set(found["better"]) == {"lsd"}
    cell = found["better"]["lsd"]
    measured = np.delete(values["better"] - base, 7, axis=1)
    assert cell["difference"] == pytest.approx(measured.mean()) and cell["low"] < cell["difference"] < cell["high"]
    assert cell["p"] < 1e-3 and cell["by_seed"] == pytest.approx([np.nanmean(v) for v in values["better"] - base])
    luck = found["luck"]["lsd"]
    assert luck["by_seed"][0] > 0.2 and luck["by_seed"][1] < -0.2
    text = ablate.differences_markdown(found, {"lsd": {"label": "LSD", "digits": 2}}, "base")
    assert text.count("seeds disagree") == 1 and "+0.5" in text


def test_compare_to_must_be_a_recipe(tmp_path):
    arguments = ["--recipes", str(SMOKE), "--output-dir", str(tmp_path), "--evaluate", "open-prompts"]
    with pytest.raises(ValueError, match="`--compare-to` must be one of two or more recipes"):
        ablate.main([*arguments, "--compare-to", "smoke"])


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
