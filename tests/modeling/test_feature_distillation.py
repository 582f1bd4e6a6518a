"""The heads of feature distillation (Table 7's comparison): off by default, and then as if they did not exist."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny import tiny_config, tiny_model

from hf_affectcodec import AffectCodecConfig, AffectCodecModel


SOURCES = ("emotion", "semantic")


def parameters(config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AffectCodecModel(config).parameters())


def test_the_papers_configuration_is_what_it_was():
    # Before the switch was there. Each head adds Linear(1024 -> 768).
    assert parameters(AffectCodecConfig()) == 44_093_921
    assert parameters(AffectCodecConfig(feature_distillation_sources=SOURCES)) == 44_093_921 + 2 * (1024 * 768 + 768)
    with torch.device("meta"):
        assert not [name for name in AffectCodecModel(AffectCodecConfig()).state_dict() if "distillation" in name]


def test_a_checkpoint_from_before_the_switch_loads(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["feature_distillation_sources"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    loaded, loading = AffectCodecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert tuple(loaded.config.feature_distillation_sources) == ()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("backbone", ["seanet", "istft"])
def test_round_trip_and_what_the_heads_compute(tmp_path, backbone):
    model = tiny_model(backbone, feature_distillation_sources=SOURCES)
    model.save_pretrained(tmp_path)
    loaded = AffectCodecModel.from_pretrained(tmp_path).eval()
    assert tuple(loaded.config.feature_distillation_sources) == SOURCES
    waveform = torch.randn(2, 1, 1600) * 0.3
    with torch.no_grad():
        outputs = model(waveform)
        again = loaded(waveform)
    weights = model.state_dict()
    for source, size in (("emotion", 12), ("semantic", 10)):
        found = outputs.projected_features[source]
        head = f"feature_distillation_heads.{source}"
        expected = torch.einsum("bfd,cd->bfc", outputs.distillation_latents, weights[f"{head}.weight"])
        assert found.shape == (2, 5, size) and float(found.std()) > 0
        torch.testing.assert_close(found, expected + weights[f"{head}.bias"])
        assert torch.equal(again.projected_features[source], found)


def test_heads_change_nothing_else():
    waveform = torch.randn(1, 1, 3200) * 0.3
    without = tiny_model()
    with_head = AffectCodecModel(tiny_config(feature_distillation_sources=("semantic",))).eval()
    loading = with_head.load_state_dict(without.state_dict(), strict=False)
    assert loading.missing_keys == [f"feature_distillation_heads.semantic.{name}" for name in ("weight", "bias")]
    with torch.no_grad():
        plain, projected = without(waveform), with_head(waveform)
    assert plain.projected_features is None and projected.projected_features.keys() == {"semantic"}
    for name in ("loss", "audio_values", "audio_codes", "latents", "distillation_latents", "alignment_latents"):
        assert torch.equal(plain[name], projected[name]), name


def test_an_unknown_source_is_named():
    with pytest.raises(StrictDataclassError, match="feature_distillation_sources.*prosody"):
        AffectCodecConfig(feature_distillation_sources=("prosody",))
