"""The speech language model that is shipped beside the codec."""

import pytest
import torch

from hf_affectcodec import pretrained_path
from hf_affectcodec.audio import load_audio
from hf_affectcodec.cli import main
from hf_affectcodec.hub import verify_sums
from hf_affectcodec.modeling.alignment_affectcodec_tts import AffectCodecTTSAlignment
from hf_affectcodec.speak import SHIPPED, load_tts, speak


@pytest.fixture(scope="module")
def loaded():
    return load_tts()


def test_files_are_whole_and_small():
    folder = pretrained_path(SHIPPED)
    verify_sums(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30e6
    assert {"README.md", "recipe.yaml", "model.safetensors", "generation_config.json"} <= {
        p.name for p in folder.iterdir()
    }


def test_its_codec_is_the_shipped_one(loaded):
    model, processor = loaded
    codec, report = type(model.codec_model).from_pretrained(pretrained_path(), output_loading_info=True)
    assert not report["missing_keys"]
    for name, value in codec.state_dict().items():
        assert torch.equal(model.codec_model.state_dict()[name], value), name
    assert processor.sampling_rate == model.codec_model.config.sampling_rate


def test_it_speaks_and_ends(loaded):
    """Longer texts last longer, in the pace of speech; the same seed says the same."""
    model, processor = loaded
    seconds = []
    for text in ("Thank you.", "The conference will begin again in about an hour."):
        spoken = speak(model, processor, text, seed=0)
        assert spoken.stop_reasons == ["eos"]
        assert torch.equal(speak(model, processor, text, seed=0).audio, spoken.audio)
        assert 0.02 < float(spoken.audio.abs().max()) < 1.5
        seconds.append(spoken.audio.shape[-1] / processor.sampling_rate)
    assert 0.3 < seconds[0] < 2.0 < seconds[1] < 6.0


def test_it_reads(loaded):
    """What it said, as its codec hears it, is likelier with its own words than with others."""
    model, processor = loaded
    text = "You are now unmuted and may speak to the conference."
    other = "He had a small red house beside the river over there."
    spoken = speak(model, processor, text, seed=1)
    codes = model.codec_model.encode(spoken.audio[None]).audio_codes
    losses = []
    for words in (text, other):
        ids = processor(words, return_tensors="pt")["input_ids"]
        losses.append(float(model(ids, codes).loss))
    assert losses[0] < losses[1] - 0.2


def test_its_guided_heads_keep_their_place(loaded):
    """The heads that its generation config names give their weight to the text around the place where the window is."""
    model, _ = loaded
    assert model.generation_config.alignment_window == [2, 3]
    weights = []
    constrain = AffectCodecTTSAlignment.constrain

    def watch(self, layer, query, key, attention_mask, scaling):
        if layer in self.heads and query.shape[2] == 1:
            scores = (query[:, self.heads[layer]] @ key[:, self.heads[layer]].transpose(2, 3))[:, :, 0] * scaling
            text = scores.softmax(-1)[..., : self.text_mask.shape[1]]
            weights.append(float((text * self.visible()[:, None]).sum(-1).mean()))
        return constrain(self, layer, query, key, attention_mask, scaling)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AffectCodecTTSAlignment, "constrain", watch)
        speak(*loaded, "You are now unmuted and may speak to the conference.", seed=1)
    # Heads that nobody had shown where they are would give a window of six symbols out of sixty a tenth of what text gets.
    assert len(weights) > 100 and sum(weights) / len(weights) > 0.8


@pytest.mark.parametrize("emotion", ["angry", "sad"])
def test_it_takes_a_mood(loaded, emotion):
    model, processor = loaded
    plain = speak(model, processor, "I did not expect this.", seed=0)
    spoken = speak(model, processor, "I did not expect this.", emotion=emotion, seed=0)
    assert spoken.stop_reasons == ["eos"] and not torch.equal(spoken.audio[..., :8000], plain.audio[..., :8000])


@pytest.mark.parametrize("named", [False, True])
def test_the_page_speaks_by_it(monkeypatch, named):
    """`affectcodec demo --tts`, without a value, and by its own folder."""
    served = {}

    def serve(codec, port, tts, recognisers, gallery):
        served.update(tts=tts)

    monkeypatch.setattr("hf_affectcodec.space.app.serve", serve)
    assert main(["demo", "--tts", *([str(pretrained_path(SHIPPED))] if named else [])]) == 0
    model, processor = served["tts"]
    assert model.config.model_type == "affectcodec_tts" and processor.emotions


def test_the_command_speaks_by_it(loaded, tmp_path):
    out = tmp_path / "said.wav"
    assert main(["speak", "Good morning.", "--emotion", "happy", "--device", "cpu", "-o", str(out)]) == 0
    spoken = speak(*loaded, "Good morning.", emotion="happy", seed=0)
    torch.testing.assert_close(load_audio(out, 16000), spoken.audio.cpu().clamp(-1, 1), rtol=0, atol=2**-15)
