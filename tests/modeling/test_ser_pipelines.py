"""`pipeline("audio-classification")` on saved recognisers, in processes that know nothing but the folder."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from loopback_hub import LoopbackHub
from tiny_ser import noise, save_graph_fusion, save_token_fusion
from transformers import pipeline

from hf_affectcodec import (
    AffectCodecFeatureExtractor,
    GraphFusionConfig,
    GraphFusionFeatureExtractor,
    GraphFusionForAudioClassification,
    SEREnsembleConfig,
    SEREnsembleForAudioClassification,
    TokenFusionConfig,
    TokenFusionFeatureExtractor,
    TokenFusionForAudioClassification,
)


CLASSES = (
    AffectCodecFeatureExtractor,
    GraphFusionConfig,
    GraphFusionFeatureExtractor,
    SEREnsembleConfig,
    TokenFusionConfig,
    TokenFusionFeatureExtractor,
)
MODELS = (
    GraphFusionForAudioClassification,
    SEREnsembleForAudioClassification,
    TokenFusionForAudioClassification,
)
PROBE = """
import json, sys

folders, package, clip = json.loads(sys.argv[1]), sys.argv[2] == "package", sys.argv[3]

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_affectcodec":
            raise ModuleNotFoundError("hf_affectcodec is kept out of this process")

if package:
    import hf_affectcodec
else:
    sys.meta_path.insert(0, NoPackage())
import numpy as np
import torch
from transformers import pipeline

torch.set_num_threads(1)
options = {} if package else {"trust_remote_code": True}
results = []
for folder in folders:
    classifier = pipeline("audio-classification", model=folder, device="cpu", **options)
    found = classifier({"array": np.load(clip), "sampling_rate": 16000})
    results.append({row["label"]: row["score"] for row in found})
assert package == ("hf_affectcodec" in sys.modules)
print("\\n" + json.dumps(results))
"""


@pytest.fixture
def with_code():
    """Inside, `save_pretrained` also copies the code, as for the Hub."""
    for cls in CLASSES:
        cls.register_for_auto_class(*(["AutoFeatureExtractor"] if "Extractor" in cls.__name__ else []))
    for cls in MODELS:
        cls.register_for_auto_class("AutoModelForAudioClassification")
    from hf_affectcodec import AffectCodecConfig, AffectCodecModel

    AffectCodecConfig.register_for_auto_class()
    AffectCodecModel.register_for_auto_class("AutoModel")
    yield
    for cls in (*CLASSES, *MODELS, AffectCodecConfig, AffectCodecModel):
        cls._auto_class = None


def classify(folder, waveform) -> dict[str, float]:
    classifier = pipeline("audio-classification", model=str(folder), device="cpu")
    return {row["label"]: row["score"] for row in classifier({"array": waveform, "sampling_rate": 16000})}


def test_saved_folders_in_clean_processes(tmp_path, with_code):
    """Tokens of a codec and of k-means, graph fusion with its recogniser, an ensemble of all: with the package and without."""
    save_token_fusion(tmp_path / "codec tokens", "codec")
    save_token_fusion(tmp_path / "k-means tokens", "encoder", seed=1)
    save_graph_fusion(tmp_path / "graph", seed=2)
    members = [str(tmp_path / name) for name in ("codec tokens", "k-means tokens", "graph")]
    SEREnsembleForAudioClassification.from_members(members, vote="soft").save_pretrained(tmp_path / "ensemble")
    AffectCodecFeatureExtractor().save_pretrained(tmp_path / "ensemble")
    waveform = noise(1.013)
    np.save(tmp_path / "clip.npy", waveform)
    folders = [*members, str(tmp_path / "ensemble")]
    here = [classify(folder, waveform) for folder in folders]
    assert all(max(scores.values()) - min(scores.values()) > 0.003 for scores in here), here
    mean = {label: sum(scores[label] for scores in here[:3]) / 3 for label in here[0]}
    assert here[3] == pytest.approx(mean, abs=1e-5)

    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    for name in ("HF_MODULES_CACHE", "HF_HUB_CACHE", "PYTHONPATH"):
        environment.pop(name, None)
    # the ensemble must do with its own copies
    for name in ("codec tokens", "k-means tokens", "graph"):
        (tmp_path / name).rename(tmp_path / f"moved {name}")
    folders = [str(tmp_path / f"moved {folder.rpartition('/')[2]}") for folder in members] + [folders[3]]
    for mode in ("package", "no package"):
        command = [sys.executable, "-I", "-c", PROBE, json.dumps(folders), mode, str(tmp_path / "clip.npy")]
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        found = json.loads(process.stdout.splitlines()[-1])
        for scores, expected in zip(found, here, strict=True):
            assert scores == pytest.approx(expected, abs=1e-5), mode


@pytest.mark.slow
def test_a_hub_repository_carries_its_codec(tmp_path, with_code):
    """`./codec` of a repository that was never downloaded, with the package and as remote code without it."""
    folder = tmp_path / "model"
    save_token_fusion(folder, "codec")
    np.save(tmp_path / "clip.npy", noise(1.013))
    here = classify(folder, noise(1.013))
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with LoopbackHub() as hub:
        hub.add("model", "org/tokens", files)
        for mode in ("package", "no package"):
            environment = hub.environment(tmp_path / mode)
            command = [sys.executable, "-I", "-c", PROBE, '["org/tokens"]', mode, str(tmp_path / "clip.npy")]
            process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert process.returncode == 0, process.stderr
            assert json.loads(process.stdout.splitlines()[-1])[0] == pytest.approx(here, abs=1e-5)
