import pytest
import torch
from slim_tts import slim
from tiny import tiny_model
from tiny_tts import random_inputs, tiny_tts
from transformers import AutoModelForTextToWaveform

from hf_affectcodec import AffectCodecTTSForConditionalGeneration


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, its codec's folder, and the slim folder beside it."""
    folder = tmp_path_factory.mktemp("slim")
    model = tiny_tts()
    model.codec_model.save_pretrained(folder / "codec")
    (folder / "tts").mkdir()
    slim(model, "../codec", folder / "tts")
    return model, folder


def test_a_slim_checkpoint_is_the_model(folders, caplog):
    model, folder = folders
    sizes = {name: (folder / name / "model.safetensors").stat().st_size for name in ("tts", "codec")}
    numbers = sum(p.numel() for part in (model.ar, model.nar) for p in part.parameters())
    assert sizes["tts"] == pytest.approx(2 * numbers, rel=0.2)
    loaded, info = AffectCodecTTSForConditionalGeneration.from_pretrained(folder / "tts", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not caplog.records
    assert loaded.dtype == torch.float32
    state = loaded.state_dict()
    for name, value in model.state_dict().items():
        exact = name.startswith("codec_model.")
        assert torch.equal(state[name], value if exact else value.half().float()), name


def test_no_path_is_told(folders, tmp_path):
    """Neither where the model was loaded from nor where its codec was."""
    _, folder = folders
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(folder / "tts")
    model.config.codec_config._name_or_path = str(folder / "codec")
    (tmp_path / "codec").symlink_to(folder / "codec")
    slim(model, "../codec", tmp_path / "tts")
    assert str(folder) not in (tmp_path / "tts/config.json").read_text()


def test_what_was_loaded_is_whole_when_it_is_saved(folders, tmp_path):
    _, folder = folders
    loaded = AutoModelForTextToWaveform.from_pretrained(folder / "tts")
    loaded.save_pretrained(tmp_path / "elsewhere")
    again = AutoModelForTextToWaveform.from_pretrained(tmp_path / "elsewhere").eval()
    assert again.config.codec_model_id is None
    phonemes = random_inputs([4], [6])[0]
    first, second = (m.eval().generate(phonemes, max_new_frames=8, seed=0) for m in (loaded, again))
    assert torch.equal(first.audio[0], second.audio[0]) and first.audio[0].abs().max() > 0


def test_another_codec_is_refused(folders, tmp_path):
    model, folder = folders
    other = tiny_model(guidance_sources=(), alignment_feature_size=None)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="`codec`.*not the codec"):
        slim(model, "../other", tmp_path / "tts")
    wide = tiny_model(guidance_sources=(), alignment_feature_size=None, hidden_size=16)
    wide.save_pretrained(folder / "wide")
    text = (folder / "tts/config.json").read_text()
    try:
        (folder / "tts/config.json").write_text(text.replace("../codec", "../wide"))
        with pytest.raises(ValueError, match="codec_model_id.*another codec"):
            AutoModelForTextToWaveform.from_pretrained(folder / "tts")
        (folder / "tts/config.json").write_text(text.replace("../codec", "../nowhere"))
        with pytest.raises(OSError, match="nowhere"):
            AutoModelForTextToWaveform.from_pretrained(folder / "tts")
    finally:
        (folder / "tts/config.json").write_text(text)


def test_a_weight_that_overflows_is_named(folders, tmp_path):
    model = tiny_tts()
    model.codec_model.save_pretrained(tmp_path / "codec")
    with torch.no_grad():
        model.ar.code_head.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"`dtype`.*ar\.code_head\.weight"):
        slim(model, "../codec", tmp_path / "tts")
