"""Every family, staged and loaded in clean processes with the package and without: the same outputs, bit for bit."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard
from safetensors.torch import save_file
from test_graph_fusion import clip
from test_graph_fusion import tiny_model as tiny_graph_fusion
from test_token_fusion import make_items
from test_token_fusion import make_model as tiny_token_fusion
from tiny import tiny_model
from tiny_tts import random_inputs, tiny_tts
from transformers import PreTrainedModel

import hf_affectcodec
from hf_affectcodec import (
    AffectCodecDiscriminator,
    AffectCodecDiscriminatorConfig,
    AffectCodecFeatureExtractor,
    AffectCodecTTSProcessor,
    GraphFusionFeatureExtractor,
)
from hf_affectcodec.hub import ModelCardValues, check_staged, model_card, stage_model, verify_sums
from hf_affectcodec.modeling.feature_extraction_token_fusion import TokenFusionFeatureExtractor
from hf_affectcodec.remote_code import auto_map, model_classes


NOISE = torch.randn(2, 1, 3200, generator=torch.Generator().manual_seed(0)) * 0.1


def tiny_discriminator():
    torch.manual_seed(0)
    config = AffectCodecDiscriminatorConfig(stft_n_ffts=(128,), num_scales=1, period_channels=(2, 4, 4, 4, 4))
    return AffectCodecDiscriminator(config).eval()


def speech_inputs():
    phonemes, mask, codes, codes_mask = random_inputs([3, 5], [6, 4])
    return {"input_ids": phonemes, "attention_mask": mask, "audio_codes": codes, "audio_codes_mask": codes_mask}


def families() -> dict[str, tuple]:
    """Model, what is saved beside it, and arguments of its `forward`."""
    token_fusion = tiny_token_fusion()
    modalities = {f"input_features.{name}": values for name, values in clip(5, 3, 7).items()}
    items = dict(TokenFusionFeatureExtractor().pad_tokens(make_items(token_fusion)))
    return {
        "affectcodec": (tiny_model(guidance_sources=[]), AffectCodecFeatureExtractor(), {"input_values": NOISE}),
        "affectcodec_discriminator": (tiny_discriminator(), None, {"input_values": NOISE}),
        "affectcodec_tts": (tiny_tts(), AffectCodecTTSProcessor(AffectCodecFeatureExtractor()), speech_inputs()),
        "token_fusion": (token_fusion, TokenFusionFeatureExtractor(), items),
        "graph_fusion": (tiny_graph_fusion(), GraphFusionFeatureExtractor(), modalities),
    }


PROBE = """
import json, sys


class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_affectcodec":
            raise ModuleNotFoundError("hf_affectcodec is kept out of this process")


sys.meta_path.insert(0, NoPackage())
folders, options = json.loads(sys.argv[1]), {"trust_remote_code": True}
exec(sys.argv[2])
print("\\n" + json.dumps(results))
"""
# From `folders` (model folder to file of inputs) and `options` to `results`. A name with a dot is an entry of a dictionary.
OUTPUTS = """
import hashlib, os

import torch
import transformers
from safetensors.torch import load_file


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors(item)]
    return [tensor for item in value for tensor in tensors(item)] if isinstance(value, (list, tuple)) else []


results = {}
for folder, inputs in folders.items():
    config = transformers.AutoConfig.from_pretrained(folder, **options)
    autos = sorted(name for name in config.auto_map if name.startswith("AutoModel"))
    models = [getattr(transformers, name).from_pretrained(folder, **options).eval() for name in autos]
    assert len({type(model).__name__ for model in models}) == 1
    given = {}
    for name, tensor in load_file(inputs).items():
        outer, dot, inner = name.partition(".")
        given[outer] = {**given.get(outer, {}), inner: tensor} if dot else tensor
    torch.manual_seed(0)
    with torch.inference_mode():
        outputs = tensors(models[0](**given))
    sha256 = hashlib.sha256()
    for tensor in outputs:
        sha256.update(tensor.contiguous().numpy().tobytes())
    module = type(models[0]).__module__.partition(".")[0]
    prepares = None
    for file, auto in (("preprocessor_config.json", "AutoFeatureExtractor"), ("processor_config.json", "AutoProcessor")):
        if os.path.exists(f"{folder}/{file}"):
            prepares = type(getattr(transformers, auto).from_pretrained(folder, **options)).__name__
    results[config.model_type] = [type(models[0]).__name__, autos, len(outputs), sha256.hexdigest(), module, prepares]
"""


def outputs_without_the_package(folders: dict[str, str], home) -> dict:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    for name in ("HF_MODULES_CACHE", "HF_HUB_CACHE", "PYTHONPATH"):
        environment.pop(name, None)
    command = [sys.executable, "-I", "-c", PROBE, json.dumps(folders), OUTPUTS]
    process = subprocess.run(command, cwd=home.parent, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def outputs_with_the_package(folders: dict[str, str]) -> dict:
    names = {"folders": folders, "options": {}}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    exec(OUTPUTS, names)
    torch.set_num_threads(threads)
    return names["results"]


def test_every_family_is_the_same_without_the_package(tmp_path):
    folders = {}
    for name, (model, extractor, inputs) in families().items():
        model.save_pretrained(tmp_path / "saved" / name)
        if extractor is not None:
            extractor.save_pretrained(tmp_path / "saved" / name)
        staged = stage_model(tmp_path / "saved" / name, tmp_path / "staged" / name, half=False)
        saved = [(staged / f"{kind}_config.json").is_file() for kind in ("preprocessor", "processor")]
        assert sum(saved) == (extractor is not None)
        save_file({key: value.contiguous() for key, value in inputs.items()}, tmp_path / f"{name}.safetensors")
        folders[str(staged)] = str(tmp_path / f"{name}.safetensors")
    shutil.rmtree(tmp_path / "saved")
    without, with_package = outputs_without_the_package(folders, tmp_path / "home"), outputs_with_the_package(folders)
    for name, (model, extractor, _) in families().items():
        classes = model_classes(type(model.config))
        for found, module in ((without, "transformers_modules"), (with_package, "hf_affectcodec")):
            assert found[name][:2] == [type(model).__name__, sorted(classes)]
            assert found[name][2] > 0 and found[name][4] == module
            assert found[name][5] == (None if extractor is None else type(extractor).__name__)
        assert without[name][3] == with_package[name][3], name


def test_what_is_registered_can_be_staged():
    """Whatever model the package exports, under each Auto class that knows it."""
    models = [
        item for item in vars(hf_affectcodec).values() if isinstance(item, type) and issubclass(item, PreTrainedModel)
    ]
    assert len(models) >= 5
    for model in models:
        entries = auto_map(model.config_class)
        assert entries["AutoConfig"].split(".")[1] == model.config_class.__name__
        autos = [name for name in entries if name.startswith("AutoModel")]
        assert autos and all(entries[name].split(".")[1] == model.__name__ for name in autos)
        for name, entry in entries.items():
            module, cls = entry.split(".")
            assert hasattr(__import__(f"hf_affectcodec.modeling.{module}", fromlist=[cls]), cls), (name, entry)
    assert auto_map(hf_affectcodec.AffectCodecConfig) == {
        "AutoConfig": "configuration_affectcodec.AffectCodecConfig",
        "AutoFeatureExtractor": "feature_extraction_affectcodec.AffectCodecFeatureExtractor",
        "AutoModel": "modeling_affectcodec.AffectCodecModel",
        "AutoModelForAudioTokenization": "modeling_affectcodec.AffectCodecModel",
    }
    with pytest.raises(ValueError, match="no Auto class loads models of type"):
        model_classes(transformers.PreTrainedConfig)


RESULT = EvalResult(
    task_type="audio-classification",
    dataset_type="expressive-voices",
    dataset_name="Expressive voices",
    metric_type="f1",
    metric_name="Macro-F1",
    metric_value=0.5,
    dataset_split="test",
)
VALUES = ModelCardValues(
    repo_id="org/ser",
    summary="A recogniser of emotion.",
    pipeline_tag="audio-classification",
    license="gpl-2.0",
    languages=("en",),
    paper="2601.17085",
    data={"expressive-voices": "GPL 2"},
    results=(RESULT,),
    guests={"openai/whisper-base": "Apache-2.0"},
    limits="Weak labels.",
)


def test_card_of_another_family(tmp_path):
    model = tiny_token_fusion()
    model.save_pretrained(tmp_path / "saved")
    TokenFusionFeatureExtractor().save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "encoder").mkdir()
    (tmp_path / "saved" / "encoder" / "vocab.txt").write_text("a\n")
    (tmp_path / "saved" / "encoder" / "weights.bin").write_text("pickle")
    card = model_card(tmp_path / "saved", VALUES)
    staged = stage_model(tmp_path / "saved", tmp_path / "staged", card=card)
    verify_sums(staged)
    assert (staged / "encoder" / "vocab.txt").is_file() and not (staged / "encoder" / "weights.bin").exists()
    read = ModelCard.load(staged / "README.md")
    (result,) = read.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("f1", 0.5, "test")
    assert read.data.license == "gpl-2.0" and "token_fusion" in read.data.tags
    for line in (
        'model = AutoModelForAudioClassification.from_pretrained("org/ser", trust_remote_code=True)',
        "| Expressive voices | test | Macro-F1 | 0.5 |",
        "| training data expressive-voices (not in this repository) | GPL 2 |",
        "| frozen model openai/whisper-base | Apache-2.0 |",
        "| teachers | none were used |",
        "Weak labels.",
    ):
        assert line in read.text, line
    for changes, words in (
        ({"data": {"x": ""}}, "`data`: 'x' has no licence"),
        ({"results": ()}, "`results` is empty"),
        ({"repo_id": "x"}, "`repo_id` must look like org/name"),
    ):
        with pytest.raises(ValueError, match=words):
            ModelCardValues(**{**vars(VALUES), **changes})


@pytest.mark.slow
def test_check_of_another_family(tmp_path):
    model = tiny_token_fusion()
    model.save_pretrained(tmp_path / "saved")
    staged = stage_model(tmp_path / "saved", tmp_path / "staged", card=model_card(tmp_path / "saved", VALUES))
    check_staged(staged)
    (staged / "pooling_token_fusion.py").write_text((staged / "pooling_token_fusion.py").read_text() + "\n")
    hf_affectcodec.hub.write_sums(staged)
    with pytest.raises(ValueError, match="pooling_token_fusion.py is not this package's"):
        check_staged(staged)
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(ValueError, match="must be a folder with config.json"):
        stage_model(bare, tmp_path / "out")
    transformers.BertModel(
        transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(bare)
    with pytest.raises(ValueError, match="models of type 'bert' are not this package's"):
        stage_model(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()
