import ast
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny import tiny_model
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

from hf_affectcodec import AffectCodecDiscriminator, AffectCodecDiscriminatorConfig, remote_code
from hf_affectcodec.benchmarks import codec_table
from hf_affectcodec.hub import CardValues, check_staged, main, stage_codec, verify_sums
from hf_affectcodec.remote_code import half_state_dict, load_in_clean_process


MODELING = Path(__file__).resolve().parents[2] / "modeling"
CARD = CardValues(
    repo_id="org/affectcodec-tiny", hardware="two CPU cores", train_minutes=104, num_voices=4, languages=("en", "it")
)
RECIPE = {
    "name": "tiny",
    "seed": 7,
    "steps": 100,
    "batch_size": 16,
    "crop_seconds": 1.0,
    "discriminator": {},
    "discriminator_start": 60,
    "train": [{"source": os.path.abspath(os.sep + "elsewhere/open-prompts/train-*.parquet")}],
    "validation": [{"source": ["{data_root}/a/b.parquet", os.path.abspath(os.sep + "x/y/z.parquet")]}],
}
LOG = [
    {"step": 50, "mel": 2.0, "seconds": 1800.0},
    {"step": 100, "mel": 1.5, "seconds": 900.0},
    {"step": 100, "mel": 1.5, "seconds": 1800.0},
    {"step": 100, "validation_mel": 1.4},
]
CHEAP = {name: codec_table.METRICS[name] for name in ("stoi", "lsd")}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What a training run leaves: model, discriminator, recipe, log; and test clips."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model(guidance_sources=[], alignment_feature_size=None)
    model.save_pretrained(folder / "model")
    discriminator = AffectCodecDiscriminatorConfig(stft_n_ffts=(), num_scales=0, period_channels=(2, 4, 4, 4, 4))
    AffectCodecDiscriminator(discriminator).save_pretrained(folder / "discriminator")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOG))
    rng = np.random.default_rng(0)
    for index in range(2):
        soundfile.write(folder / f"{index}.wav", 0.1 * rng.standard_normal(16000), 16000)
    audio = [{"bytes": (folder / f"{i}.wav").read_bytes(), "path": f"{i}.wav"} for i in range(2)]
    audio = pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pyarrow.parquet.write_table(pa.table({"audio": audio}), folder / "test.parquet")
    return folder


def files(run_folder) -> dict:
    return {
        "discriminator_dir": run_folder / "discriminator",
        "recipe_file": run_folder / "recipe.yaml",
        "log_file": run_folder / "log.jsonl",
    }


@pytest.fixture(scope="module")
def staged(run_folder, tmp_path_factory):
    """The way of the docs: stage, measure what was staged, stage with the card."""
    folder, results = tmp_path_factory.mktemp("hub") / "staged", tmp_path_factory.mktemp("results")
    stage_codec(run_folder / "model", folder, **files(run_folder))
    assert not (folder / "README.md").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_table, "METRICS", CHEAP)
        data = str(run_folder / "test.parquet")
        assert codec_table.main(["--models", f"ours={folder}", "--data", data, "--out", str(results)]) == 0
        shutil.copy(results / "table.json", run_folder / "table.json")
        results_json = run_folder / "table.json"
        stage_codec(
            run_folder / "model",
            folder,
            **files(run_folder),
            results_json=results_json,
            card_values=CARD,
            overwrite=True,
        )
    return folder


def code_behind(*modules: str) -> set[str]:
    """Files of modules and of all that they import from beside them, read from their syntax trees."""
    found, left = set(), list(modules)
    while left:
        name = left.pop()
        if f"{name}.py" not in found:
            found.add(f"{name}.py")
            tree = ast.parse((MODELING / f"{name}.py").read_text("utf-8"))
            left += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return found


def test_files(staged):
    expected = {
        "README.md",
        "SHA256SUMS",
        "config.json",
        "discriminator/config.json",
        "discriminator/model.safetensors",
        "log.jsonl",
        "model.safetensors",
        "preprocessor_config.json",
        "recipe.yaml",
    }
    expected |= code_behind(
        "modeling_affectcodec", "modeling_affectcodec_discriminator", "feature_extraction_affectcodec"
    )
    assert expected > {"istft_affectcodec.py", "seanet_affectcodec.py", "quantization_affectcodec.py"}
    assert {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()} == expected
    config = json.loads((staged / "config.json").read_text())
    assert config["dtype"] == "float32" and config["architectures"] == ["AffectCodecModel"]
    assert config["auto_map"] == {
        "AutoConfig": "configuration_affectcodec.AffectCodecConfig",
        "AutoFeatureExtractor": "feature_extraction_affectcodec.AffectCodecFeatureExtractor",
        "AutoModel": "modeling_affectcodec.AffectCodecModel",
        "AutoModelForAudioTokenization": "modeling_affectcodec.AffectCodecModel",
    }
    text = "".join(
        path.read_text() for path in staged.rglob("*") if path.suffix in (".json", ".yaml", ".md", ".jsonl")
    )
    assert "elsewhere" not in text and str(staged.parent) not in text


def test_half_on_disk_is_float32_in_memory(staged, run_folder):
    stored = load_file(staged / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    assert stored["quantizer.layers.0.embed"].dtype == torch.float16
    model = AutoModel.from_pretrained(staged)
    original = AutoModel.from_pretrained(run_folder / "model").state_dict()
    assert model.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, original[name].half().float())
        else:
            assert torch.equal(tensor, original[name])
    discriminator = AutoModel.from_pretrained(staged, subfolder="discriminator")
    assert isinstance(discriminator, AffectCodecDiscriminator) and discriminator.dtype == torch.float32


def test_values_beyond_float16_stay_float32():
    model = tiny_model(guidance_sources=[])
    model.quantizer.layers[0].cluster_size.fill_(1e6)
    state_dict = half_state_dict(model)
    assert state_dict["quantizer.layers.0.cluster_size"].dtype == torch.float32
    assert state_dict["quantizer.layers.1.cluster_size"].dtype == torch.float16


def test_saving_outside_of_staging_copies_no_code(staged, tmp_path):
    AutoModel.from_pretrained(staged).config.__class__().save_pretrained(tmp_path)
    tiny_model(guidance_sources=[]).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_clean_process_without_the_package_is_bit_equal(staged):
    found = load_in_clean_process(staged, package=False)
    model = AutoModelForAudioTokenization.from_pretrained(staged).eval()
    waveform = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    inputs = AutoFeatureExtractor.from_pretrained(staged)(waveform, sampling_rate=16000, return_tensors="pt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        codes = model.encode(**inputs).audio_codes
        audio = model.decode(codes).audio_values
    torch.set_num_threads(threads)
    assert len(codes.unique()) > 10
    assert found.pop("classes") == dict.fromkeys(("AutoModel", "AutoModelForAudioTokenization"), "AffectCodecModel")
    assert len(found.pop("weights")) == 64
    assert found == {
        "codes": hashlib.sha256(codes.contiguous().numpy().tobytes()).hexdigest(),
        "audio": hashlib.sha256(audio.contiguous().numpy().tobytes()).hexdigest(),
        "dtypes": ["torch.float32"],
        "package": False,
    }


@pytest.mark.slow
def test_check_staged_passes(staged):
    check_staged(staged)


def test_check_staged_compares_with_and_without_the_package(staged, monkeypatch):
    """Two processes in the slow test above; here what they would say."""
    good = {"classes": {}, "weights": "a", "codes": "b", "audio": "c", "dtypes": ["torch.float32"]}
    said = {}
    monkeypatch.setattr(remote_code, "load_in_clean_process", lambda folder, package, subfolders: dict(said[package]))
    said = {package: {**good, "package": package} for package in (False, True)}
    check_staged(staged)
    for package, change, words in (
        (True, {"codes": "other"}, "codes differ with and without hf_affectcodec"),
        (True, {"weights": "other"}, "weights differ with and without"),
        (False, {"package": True}, "loads in another way than it should"),
        (False, {"dtypes": ["torch.float16"]}, "loads in another way than it should"),
    ):
        said = {which: {**good, "package": which} for which in (False, True)}
        said[package] |= change
        with pytest.raises(ValueError, match=words):
            check_staged(staged)


def test_a_file_of_code_that_is_missing_is_found(staged, tmp_path):
    shutil.copytree(staged, tmp_path / "broken")
    (tmp_path / "broken" / "istft_affectcodec.py").unlink()
    with pytest.raises(ValueError, match="does not load without hf_affectcodec: .*istft_affectcodec"):
        load_in_clean_process(tmp_path / "broken", package=False)


def test_card(staged, run_folder):
    card = ModelCard.load(staged / "README.md")
    assert card.data.license == "cc-by-sa-3.0" and card.data.library_name == "transformers"
    assert card.data.language == ["en", "it"] and card.data.pipeline_tag == "audio-to-audio"
    measured = json.loads((run_folder / "table.json").read_text())["systems"]["ours"]["metrics"]
    results = {result.metric_type: result for result in card.data.eval_results}
    assert set(results) == set(CHEAP)
    for name, result in results.items():
        assert result.metric_value == round(measured[name]["mean"], 4)
        assert result.dataset_type == "open-prompts" and result.dataset_split == "test"
        assert result.dataset_args["clips"] == 2 and len(result.dataset_args["sha256"]) == 64
    for phrase in (
        'from_pretrained("org/affectcodec-tiny", trust_remote_code=True)',
        "| seed | 7 |",
        "100 of batch 16 x 1 s",
        "| training data Open prompts (open-prompts; not in this repository) | CC BY-SA 3.0 (en, es, fr), CC BY 3.0 (it, ru) |",
        "1.00 hours on two CPU cores",
        "104 minutes",
        "2605.23373",
        "no emotion or semantic guidance",
        "| teachers | none were used |",
        "| ours | ",
        "consent",
        "CC BY-SA 3.0",
        "June Wallack",
    ):
        assert phrase in card.text, phrase
    for path in ("model.safetensors", "discriminator/model.safetensors"):
        digest = hashlib.sha256((staged / path).read_bytes()).hexdigest()
        assert f"| weights `{path}` | cc-by-sa-3.0 | `{digest}` |" in card.text
    assert "nan" not in card.text.lower().split() and "None" not in card.text and "{{" not in card.text


def test_usage_of_the_card_runs(staged):
    block = ModelCard.load(staged / "README.md").text.split("```python\n")[1].split("```")[0]
    names = {"waveform": np.zeros(16000, dtype=np.float32)}
    exec(block.replace("org/affectcodec-tiny", str(staged)), names)
    assert names["codes"].shape == (1, 8, 50)


def test_recipe_keeps_no_path_of_the_machine(staged):
    recipe = yaml.safe_load((staged / "recipe.yaml").read_text())
    assert recipe["train"][0]["source"] == "{data_root}/open-prompts/train-*.parquet"
    assert recipe["validation"][0]["source"] == ["{data_root}/a/b.parquet", "{data_root}/y/z.parquet"]


def test_sums(staged, tmp_path):
    verify_sums(staged)
    lines = dict(reversed(line.split("  ")) for line in (staged / "SHA256SUMS").read_text().splitlines())
    digest = hashlib.sha256((staged / "model.safetensors").read_bytes()).hexdigest()
    assert lines["model.safetensors"] == digest and "SHA256SUMS" not in lines
    copy = tmp_path / "copy"
    for change, message in (
        (lambda: (copy / "config.json").write_text("{}"), "config.json has changed"),
        (lambda: (copy / "log.jsonl").unlink(), "log.jsonl is missing"),
        (lambda: (copy / "extra").write_text("x"), "extra is not listed"),
        (lambda: (copy / "SHA256SUMS").unlink(), "no SHA256SUMS"),
    ):
        shutil.copytree(staged, copy)
        change()
        with pytest.raises(ValueError, match=message):
            verify_sums(copy)
        shutil.rmtree(copy)


def stage_again(run_folder, tmp_path, table=None, **changes):
    if table is not None:
        (tmp_path / "table.json").write_text(json.dumps(table))
        changes |= {"results_json": tmp_path / "table.json"}
    arguments = {**files(run_folder), "card_values": CARD, **changes}
    return stage_codec(run_folder / "model", tmp_path / "out", **arguments)


def test_results_of_other_weights_are_refused(staged, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(codec_table, "METRICS", CHEAP)
    table = json.loads((run_folder / "table.json").read_text())
    table["systems"]["ours"]["fingerprint"] = "0" * 64 + " torch 1"
    with pytest.raises(ValueError, match="none of .*'ours'.* is the staged model"):
        stage_again(run_folder, tmp_path, table)
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_a_value_that_was_not_measured_is_refused(staged, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(codec_table, "METRICS", CHEAP)
    table = json.loads((run_folder / "table.json").read_text())
    table["systems"]["ours"]["metrics"]["lsd"]["mean"] = None
    with pytest.raises(ValueError, match="ours has no measured value of lsd"):
        stage_again(run_folder, tmp_path, table)
    monkeypatch.undo()
    table = json.loads((run_folder / "table.json").read_text())
    with pytest.raises(ValueError, match="no measured value of pesq_wb"):
        stage_again(run_folder, tmp_path, table)


def test_teachers_stand_in_the_card_with_their_licences(staged, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(codec_table, "METRICS", CHEAP)
    table = json.loads((run_folder / "table.json").read_text())
    folder = os.path.abspath(os.sep + "elsewhere/features/open-prompts")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "teachers": {"folder": folder}}))
    with pytest.raises(ValueError, match="`teachers` of the card must name the recipe's teachers"):
        stage_again(run_folder, tmp_path, table, recipe_file=tmp_path / "recipe.yaml")
    course = "The learning rate started anew at step 50."
    values = replace(CARD, teachers={"openai/whisper-base": "Apache-2.0"}, course=course)
    with pytest.raises(ValueError, match="`teachers` of the card"):
        stage_again(run_folder, tmp_path, table, card_values=values)
    output = stage_again(run_folder, tmp_path, table, recipe_file=tmp_path / "recipe.yaml", card_values=values)
    text = (output / "README.md").read_text()
    assert "| teacher openai/whisper-base (not in this repository) | Apache-2.0 |" in text
    assert f"\n{course}\n" in text
    assert "none were used" not in text and "expressive-voices" not in text
    both = replace(values, corpora=("open-prompts", "expressive-voices"), license="gpl-2.0")
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "table.json").write_text(json.dumps(table))
    output = stage_again(run_folder, tmp_path / "both", table, recipe_file=tmp_path / "recipe.yaml", card_values=both)
    licences = (output / "README.md").read_text().split("## Licences")[1]
    assert "Expressive voices (expressive-voices; not in this repository) | GPL 2 |" in licences
    assert "June Wallack" in licences and "Hedgewars" in licences and "| gpl-2.0 |" in licences
    with pytest.raises(ValueError, match="`corpora`: the licence of 'cmu-mosei' is not known"):
        replace(CARD, corpora=("cmu-mosei",))
    assert "none were used" not in text and "Not trained for emotion" not in text
    recipe = yaml.safe_load((output / "recipe.yaml").read_text())
    assert recipe["teachers"]["folder"] == "{data_root}/features/open-prompts"


def test_log_of_another_run_is_refused(staged, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(codec_table, "METRICS", CHEAP)
    table = json.loads((run_folder / "table.json").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "steps": 200}))
    with pytest.raises(ValueError, match="`log_file` ends at step 100, `recipe_file` at 200"):
        stage_again(run_folder, tmp_path, table, recipe_file=tmp_path / "recipe.yaml")


def test_a_recipe_without_a_value_of_the_card_is_refused(staged, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(codec_table, "METRICS", CHEAP)
    table = json.loads((run_folder / "table.json").read_text())
    recipe = {key: value for key, value in RECIPE.items() if key != "seed"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="the card needs a value that is not there: .*seed"):
        stage_again(run_folder, tmp_path, table, recipe_file=tmp_path / "recipe.yaml")


def test_bad_arguments(staged, run_folder, tmp_path):
    table = json.loads((run_folder / "table.json").read_text())
    for name in ("recipe_file", "log_file", "card_values"):
        with pytest.raises(ValueError, match=f"`{name}` is needed"):
            stage_again(run_folder, tmp_path, table, **{name: None})
    for name in ("recipe_file", "discriminator_dir"):
        with pytest.raises(ValueError, match=f"`{name}` .* does not exist"):
            stage_again(run_folder, tmp_path, **{name: tmp_path / "nothing"})
    with pytest.raises(ValueError, match="`output_dir` .* exists"):
        stage_codec(run_folder / "model", staged)
    with pytest.raises(ValueError, match="`model_dir` .* must be a folder with config.json"):
        stage_codec(tmp_path, tmp_path / "out")
    untrained = tiny_model(guidance_sources=[])
    for layer in untrained.quantizer.layers:
        layer.inited.zero_()
    untrained.save_pretrained(tmp_path / "untrained")
    with pytest.raises(ValueError, match="never trained"):
        stage_codec(tmp_path / "untrained", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="`log_file` log.jsonl has no row"):
        stage_again(run_folder, tmp_path, log_file=tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="`repo_id` must look like org/name"):
        CardValues(repo_id="x", hardware="a", train_minutes=1, num_voices=1, languages=("en",))
    with pytest.raises(ValueError, match="`train_minutes` must be positive"):
        CardValues(repo_id="x/y", hardware="a", train_minutes=0, num_voices=1, languages=("en",))


def test_command_line(run_folder, tmp_path, capsys):
    assert main(["stage", str(run_folder / "model"), str(tmp_path / "out"), "--full"]) == 0
    assert "without a card" in capsys.readouterr().out
    assert load_file(tmp_path / "out" / "model.safetensors")["quantizer.layers.0.embed"].dtype == torch.float32
    assert main(["stage", str(run_folder / "model"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "`output_dir`" in error
    card = ["--results", "c", "--repo-id", "x/y"]
    values = ["--hardware", "a", "--train-minutes", "1", "--num-voices", "1", "--languages", "en"]
    assert main(["stage", "a", "b", *card, *values, "--teachers", "hubert"]) == 2
    assert "NAME=LICENCE, got 'hubert'" in capsys.readouterr().err
    assert main(["stage", "a", "b", *card]) == 2
    assert "--hardware --train-minutes --num-voices --languages" in capsys.readouterr().err


def test_command_line_with_a_card(staged, run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(codec_table, "METRICS", CHEAP)
    run = {
        name: str(run_folder / name) for name in ("model", "discriminator", "recipe.yaml", "log.jsonl", "table.json")
    }
    arguments = ["stage", run["model"], str(tmp_path / "out"), "--discriminator", run["discriminator"]]
    arguments += ["--recipe", run["recipe.yaml"], "--log", run["log.jsonl"], "--results", run["table.json"]]
    arguments += ["--repo-id", "org/affectcodec-tiny", "--hardware", "two CPU cores", "--train-minutes", "104"]
    assert main([*arguments, "--num-voices", "4", "--languages", "en", "it"]) == 0
    assert "with its card" in capsys.readouterr().out
    # The same folder, byte for byte, as by the function.
    assert (tmp_path / "out" / "SHA256SUMS").read_text() == (staged / "SHA256SUMS").read_text()
