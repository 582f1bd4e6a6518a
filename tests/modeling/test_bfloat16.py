"""bfloat16, by cast and by autocast: the codebooks stay as they are, and nearly all codes too."""

import copy
from importlib.resources import as_file, files

import pytest
import torch
from tiny import tiny_model

from hf_affectcodec import AffectCodecModel, pretrained_path
from hf_affectcodec.audio import load_audio


@pytest.mark.parametrize("backbone", ["seanet", "istft"])
def test_a_cast_leaves_the_quantizer_alone(backbone):
    model = tiny_model(backbone, guidance_sources=())
    for cast in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()):
        changed = cast(copy.deepcopy(model))
        for name, tensor in model.quantizer.state_dict().items():
            assert torch.equal(changed.quantizer.state_dict()[name], tensor), name
    assert {p.dtype for p in model.to(torch.bfloat16).encoder.parameters()} == {torch.bfloat16}
    outputs = model.encode(torch.randn(2, 1, 3200) * 0.3)
    assert outputs.audio_codes.shape == (2, 8, 10) and outputs.audio_codes.dtype == torch.long
    audio = model.decode(outputs.audio_codes).audio_values
    assert audio.shape == (2, 1, 3200) and audio.isfinite().all()


def test_a_device_still_moves_it():
    model = tiny_model("istft", guidance_sources=()).to("meta")
    assert {tensor.device.type for tensor in model.quantizer.state_dict().values()} == {"meta"}


@torch.no_grad()
def test_codes_of_speech_hardly_change():
    """The shipped model on its demonstration clip."""
    with as_file(files("hf_affectcodec") / "assets/pbx-invalidpark.flac") as path:
        waveform = load_audio(path, 16000)[None]
    model = AffectCodecModel.from_pretrained(pretrained_path()).eval()
    codes = model.encode(waveform).audio_codes
    with torch.autocast("cpu", torch.bfloat16):
        by_autocast = model.encode(waveform).audio_codes
    by_cast = model.to(torch.bfloat16).encode(waveform).audio_codes
    for found in (by_autocast, by_cast):
        equal = (found == codes).float().mean((0, 2))
        assert found.dtype == torch.long and equal[0] > 0.97 and equal.mean() > 0.8
        assert not torch.equal(found, codes)  # it really ran in less precision
