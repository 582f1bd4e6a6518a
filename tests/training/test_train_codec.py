"""The codec's training: it runs, it learns, it resumes bit for bit, and bad input is named."""

import functools
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import train_codec
from accelerate.state import AcceleratorState, GradientState, PartialState
from codec_steps import adversary_active, learning_rate_ratio
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub
from recipe import load_recipe
from safetensors.torch import load, load_file

from hf_affectcodec import AffectCodecDiscriminator, AffectCodecModel, hub


ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "training/recipes/codec/smoke.yaml"


def voiced(seconds: float, pitch: float, seed: int) -> np.ndarray:
    """Harmonics with a gliding pitch and a slow loudness wave: enough like speech to have something to learn."""
    time = np.arange(int(seconds * 16000)) / 16000
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * time + seed))) / 16000
    wave = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * wave + 0.003 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, clips in (("train", 6), ("validation", 2)):
        rows = []
        for index in range(clips):
            buffer = io.BytesIO()
            soundfile.write(buffer, voiced(1.5 + 0.1 * index, 90 + 30 * index, index), 16000, format="FLAC")
            rows.append({"bytes": buffer.getvalue(), "path": f"{name}_{index}.flac"})
        pq.write_table(pa.table({"audio": pa.array(rows)}), folder / f"{name}.parquet")
    return folder


def run(output_dir, data_root, *arguments):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    arguments = ["--recipe", str(SMOKE), "--data-root", str(data_root), "--output-dir", str(output_dir), *arguments]
    train_codec.main(arguments)


def weights(folder):
    return {name: load_file(folder / name / "model.safetensors") for name in ("model", "discriminator")}


def assert_same(first, second):
    for name in first:
        assert set(first[name]) == set(second[name])
        for key, tensor in first[name].items():
            assert torch.equal(tensor, second[name][key]), f"{name}: {key}"


@pytest.fixture(scope="module")
def unbroken(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder, data_root)
    return folder


def test_smoke_run_through_accelerate_launch(data_root, tmp_path, unbroken):
    # The same number of threads, since it decides the order of sums.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["--num_cpu_threads_per_process", str(torch.get_num_threads())]
    script = [ROOT / "training/train_codec.py", "--recipe", SMOKE, "--data-root", data_root, "--output-dir", tmp_path]
    done = subprocess.run([*command, *map(str, script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(weights(tmp_path), weights(unbroken))


def test_what_a_run_leaves_behind(unbroken):
    model = AffectCodecModel.from_pretrained(unbroken / "model").eval()
    assert isinstance(AffectCodecDiscriminator.from_pretrained(unbroken / "discriminator"), AffectCodecDiscriminator)
    assert (unbroken / "model/preprocessor_config.json").exists()
    assert (unbroken / "loss_curves.png").stat().st_size > 10_000
    samples = sorted(path.name for path in (unbroken / "samples/00000030").iterdir())
    assert samples == ["0.png", "0_original.wav", "0_rebuilt.wav", "1.png", "1_original.wav", "1_rebuilt.wav"]
    rows = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    training = [row for row in rows if "mel" in row]
    assert training[-1]["mel"] < 0.8 * training[0]["mel"]
    assert all(0 < row["usage_0"] <= 1 and 1 <= row["perplexity_7"] <= 64 for row in training)
    assert [row["step"] for row in rows if "validation_mel" in row] == [15, 30]
    # The adversary joins at step 10, and the first steps know nothing of it.
    assert [row["step"] for row in training if "discriminator" in row] == [15, 20, 25, 30]
    assert model.config.codebook_size == 64


def test_both_networks_and_codebooks_moved(unbroken):
    first = load_file(unbroken / "checkpoint-00000010/model.safetensors")
    last = load_file(unbroken / "checkpoint-00000030/model.safetensors")
    still = [key for key in first if torch.equal(first[key], last[key]) and not key.endswith("inited")]
    assert still == []
    first, last = (load_file(unbroken / f"checkpoint-000000{step}/model_1.safetensors") for step in (10, 30))
    assert [key for key in first if torch.equal(first[key], last[key])] == []


def test_resume_twice_equals_an_unbroken_run(data_root, tmp_path, unbroken):
    run(tmp_path, data_root, "--stop-at", "4")
    AffectCodecModel.from_pretrained(tmp_path / "model")
    # A real kill comes later than the last checkpoint: rows of steps that will be made again.
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "mel": 1.0}) + "\n" + '{"step": 6, "me')
    torch.manual_seed(99)
    # The second stop falls into the adversarial phase, when every piece of state counts.
    run(tmp_path, data_root, "--resume", "--stop-at", "13")
    # What a kill in mid-save leaves behind is not resumed from.
    (tmp_path / "checkpoint-00000020.part").mkdir()
    run(tmp_path, data_root, "--resume")
    assert_same(weights(tmp_path), weights(unbroken))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and 6 not in steps
    with pytest.raises(SystemExit, match="stop-at"):
        run(tmp_path, data_root, "--resume", "--stop-at", "30")
    with pytest.raises(SystemExit, match="discriminator"):
        run(tmp_path, data_root, "--resume", "--set", "discriminator.stft_filters=8")


def test_starting_from_trained_weights(data_root, tmp_path, unbroken):
    source = f"initial_model={unbroken / 'model'}"
    still = ["learning_rate=0.0", "discriminator_learning_rate=0.0", "kmeans_steps=[]", "warmup_steps=0"]
    still += ["weight_decay=0.0", "discriminator_start=0", f"initial_discriminator={unbroken}"]
    changes = [part for change in [source, *still] for part in ("--set", change)]
    run(tmp_path / "same", data_root, *changes, "--stop-at", "1")
    start, now = weights(unbroken), weights(tmp_path / "same")
    assert_same({"model": _parameters(start["model"])}, {"model": _parameters(now["model"])})
    # Through weight norm and back, which rounds.
    torch.testing.assert_close(now["discriminator"], start["discriminator"], rtol=1e-6, atol=1e-7)
    # A module that the weights lack starts fresh; what the recipe's model has no place for is refused.
    run(tmp_path / "more", data_root, *changes, "--set", "model.alignment_feature_size=8", "--stop-at", "1")
    more = weights(tmp_path / "more")["model"]
    fresh = set(more) - set(start["model"])
    assert fresh and all("alignment" in name for name in fresh)
    assert all(torch.equal(more[name], values) for name, values in _parameters(start["model"]).items())
    with pytest.raises(ValueError, match="which the recipe's model has not"):
        run(tmp_path / "other", data_root, *changes, "--set", "model.hidden_size=48")


def _parameters(state):
    """Without the codebooks, which move without a gradient."""
    return {name: values for name, values in state.items() if ".layers." not in name or "quantizer" not in name}


def test_push_to_hub(data_root, tmp_path, monkeypatch):
    with LoopbackHub() as loopback:
        monkeypatch.setattr(hub, "HfApi", functools.partial(HfApi, endpoint=loopback.endpoint, token="hf_loopback"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        arguments = ["--set", "kmeans_steps=[0]", "--stop-at", "1", "--push-to-hub"]
        run(tmp_path / "run", data_root, *arguments, "org/run")
        repository = loopback.repositories["model", "org/run"]
        assert (
            repository.private and {"recipe.yaml", "log.jsonl", "modeling_affectcodec.py"} <= repository.files.keys()
        )
        for name, path in (("model", "model.safetensors"), ("discriminator", "discriminator/model.safetensors")):
            assert_same({name: load(repository.files[path])}, {name: weights(tmp_path / "run")[name]})
        loopback.fail("POST", "/repos/create", times=100, status=403)
        with pytest.raises(SystemExit, match="--push-to-hub: org/other: .*tries again"):
            run(tmp_path / "refused", data_root, *arguments, "org/other")


def test_time_limit_writes_a_checkpoint(data_root, tmp_path):
    run(tmp_path, data_root, "--max-minutes", "0")
    assert [path.name for path in train_codec.checkpoints(tmp_path)] == ["checkpoint-00000001"]


def test_the_papers_recipe_shrunken(data_root, tmp_path):
    """SEANet with weight norm and idle guidance, all three families of discriminators: what `affectcodec.yaml` runs."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""
base: {ROOT / "training/recipes/codec/affectcodec.yaml"}
name: tiny
model: {{num_filters: 4, hidden_size: 32, codebook_size: 64, emotion_feature_size: 8, semantic_feature_size: 8}}
discriminator: {{stft_filters: 4, stft_n_ffts: [256], periods: [2], period_channels: [4, 8], num_scales: 1,
  scale_channels: [8, 8], scale_kernel_sizes: [15, 5], scale_strides: [2, 1], scale_groups: [1, 1]}}
train: [{{source: "{data_root}/train.parquet"}}]
validation: []
steps: 3
discriminator_start: 1
crop_seconds: 0.5
batch_size: 2
kmeans_steps: [0]
mixed_precision: "no"
"""
    )
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    train_codec.main(["--recipe", str(recipe), "--output-dir", str(tmp_path / "run")])
    model = AffectCodecModel.from_pretrained(tmp_path / "run/model").eval()
    assert not any("parametrizations" in name for name in load_file(tmp_path / "run/model/model.safetensors"))
    with torch.no_grad():
        assert model(torch.randn(1, 1, 3200)).audio_values.shape == (1, 1, 3200)


def test_trackers(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run(tmp_path / "run", data_root, "--report-to", "tensorboard", "trackio", "--set", "steps=5")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    assert list((tmp_path / "trackio").rglob("*.db"))


def test_folder_and_resume_must_fit(data_root, tmp_path, unbroken):
    with pytest.raises(SystemExit, match="--resume"):
        run(unbroken, data_root)
    with pytest.raises(SystemExit, match="no checkpoint"):
        run(tmp_path, data_root, "--resume")


def test_non_finite_steps_are_skipped_and_counted(data_root, tmp_path, monkeypatch):
    clean = train_codec.RandomCrops.__getitem__
    broken_steps = {3, 4}

    def crops_with_a_poisoned_loss(self, step):
        batch = clean(self, step)
        if step in broken_steps:
            batch["input_values"] = batch["input_values"] * 1e30
        return batch

    monkeypatch.setattr(train_codec.RandomCrops, "__getitem__", crops_with_a_poisoned_loss)
    run(tmp_path, data_root, "--set", "steps=10", "--set", "kmeans_steps=[0]")
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    counts = [row["nonfinite_steps"] for row in rows if "nonfinite_steps" in row]
    assert counts[-1] == len(broken_steps)
    for tensors in weights(tmp_path).values():
        assert all(torch.isfinite(t.float()).all() for t in tensors.values())
    with pytest.raises(RuntimeError, match="non-finite"):
        run(tmp_path / "strict", data_root, "--set", "max_nonfinite_steps=1", "--set", "kmeans_steps=[0]")


def test_recipes_load_and_name_their_mistakes(tmp_path):
    for path in sorted((ROOT / "training/recipes/codec").glob("*.yaml")):
        recipe = load_recipe(path)
        assert recipe.name == path.stem
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {SMOKE}\nname: child\nloss_weights: {{mel: 3.0}}\n")
    recipe = load_recipe(child, "there", ["steps=7", "model.hidden_size=48"])
    assert (recipe.name, recipe.steps, recipe.model["hidden_size"], recipe.loss_weights.mel) == ("child", 7, 48, 3.0)
    assert recipe.train[0].source == "there/train.parquet" and recipe.model["codebook_size"] == 64
    for text, name in (("step: 7", "step"), ("loss_weights: {mell: 1}", "mell"), ("train: [{path: x}]", "path")):
        child.write_text(f"base: {SMOKE}\n{text}\n")
        with pytest.raises(ValueError, match=name):
            load_recipe(child)


def test_schedule_and_adversary_depend_on_the_step_only():
    recipe = load_recipe(SMOKE, overrides=["steps=102", "warmup_steps=2"])
    assert [learning_rate_ratio(recipe, step) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert learning_rate_ratio(recipe, 52) == pytest.approx(0.5)
    assert learning_rate_ratio(recipe, 102) == pytest.approx(0.0)
    assert [adversary_active(recipe, step) for step in (9, 10, 11)] == [False, True, True]
