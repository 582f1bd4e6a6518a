"""Features of graph fusion in a folder: those of the encoders themselves, on again after a stop, and what training reads."""

import io
import sys
import types

import extract_graph_features
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from extract_graph_features import main
from safetensors.torch import load_file
from tiny_ser import noise, save_bert, save_ctc, save_hubert, save_whisper
from train_graph_fusion import FeatureItems
from transformers import AutoFeatureExtractor, AutoModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from hf_affectcodec.modeling import foreign_graph_fusion
from hf_affectcodec.modeling.encoders_graph_fusion import GraphFusionEncoders
from hf_affectcodec.modeling.feature_extraction_graph_fusion import GraphFusionFeatureExtractor
from hf_affectcodec.modeling.foreign_graph_fusion import GraphFusionCed
from hf_affectcodec.teachers.hubert import HubertTeacher
from hf_affectcodec.teachers.whisper import WhisperTeacher


@pytest.fixture
def study(tmp_path):
    """Five clips, the third longer than Whisper's window (3 s here), the second without words; encoders; a recipe."""
    seconds, texts = (0.5, 0.7, 4.1, 0.3, 0.9), ("a b", "", "c", "ab", "ba ba")
    audio = []
    for index, length in enumerate(seconds):
        buffer = io.BytesIO()
        soundfile.write(buffer, noise(length, index), 16000, format="WAV", subtype="FLOAT")
        audio.append({"bytes": buffer.getvalue(), "path": f"clip {index}.wav"})
    columns = {"audio": pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    columns |= {"text": list(texts), "emotion": list("xyxyx"), "speaker": list("aabbc")}
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    for name, save in (("whisper", save_whisper), ("hubert", save_hubert), ("bert", save_bert), ("ctc", save_ctc)):
        save(tmp_path / name)
    recipe = {
        "name": "tiny",
        "labels": ["x", "y"],
        "model": {
            "feature_sizes": {"audio": 12, "hubert": 12, "text": 8, "lld": 25},
            "token_sizes": {},
            "speech_encoders": {"audio": str(tmp_path / "whisper"), "hubert": str(tmp_path / "hubert")},
            "text_encoder": str(tmp_path / "bert"),
            "encoder_window_seconds": 3.0,
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def run(study, *options, out="out"):
    arguments = ["--recipe", str(study / "recipe.yaml"), "--source", str(study / "clips.parquet")]
    columns = ["--label-column", "emotion", "--speaker-column", "speaker"]
    main([*arguments, *columns, "--output-dir", str(study / out), *options])


def test_features_are_the_encoders(study, monkeypatch):
    monkeypatch.setattr(extract_graph_features.PartCache.__init__, "__defaults__", (2,))
    given = ["--transcripts", "text", "--opensmile-feature-set", "eGeMAPSv02"]
    run(study, *given)
    assert len(list((study / "out/parts").iterdir())) == 3
    whisper = WhisperTeacher(AutoModel.from_pretrained(study / "whisper"), WhisperFeatureExtractor(chunk_length=3))
    hubert = HubertTeacher(
        AutoModel.from_pretrained(study / "hubert"),
        Wav2Vec2FeatureExtractor(return_attention_mask=False),
        layer="last",
    )
    found = {name: load_file(study / f"out/{name}.safetensors") for name in ("audio", "hubert", "text", "lld")}
    bert, tokenizer = save_bert(study / "other")
    for index, (seconds, text) in enumerate(
        zip((0.5, 0.7, 4.1, 0.3, 0.9), ("a b", "", "c", "ab", "ba ba"), strict=True)
    ):
        name, waveform = f"clip {index}.wav", torch.from_numpy(noise(seconds, index))
        waveform = torch.nn.functional.pad(waveform, (0, -len(waveform) % 320))
        expected = whisper([waveform])[0]
        assert found["audio"][name].dtype == torch.float16
        torch.testing.assert_close(found["audio"][name].float(), expected, rtol=1e-3, atol=1e-3)
        if seconds < 3:
            values = found["hubert"][name].float()
            torch.testing.assert_close(values, hubert([waveform])[0][: len(values)], rtol=1e-3, atol=1e-3)
        assert (name in found["text"]) == bool(text)
        if text:
            with torch.no_grad():
                expected = bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(found["text"][name].float(), expected, rtol=1e-3, atol=1e-3)
        assert found["lld"][name].shape[1] == 25

    # what is done is not done again; what is missing is
    calls, whole = [], extract_graph_features.clip_features
    monkeypatch.setattr(extract_graph_features, "clip_features", lambda *a: calls.append(1) or whole(*a))
    before = (study / "out/audio.safetensors").read_bytes()
    (study / "out/parts/part-00001-of-00003.safetensors").unlink()
    (study / "out/items.json").unlink()
    run(study, *given)
    assert len(calls) == 2 and (study / "out/audio.safetensors").read_bytes() == before
    items = FeatureItems(study / "out", ["audio", "text", "lld"], ["x", "y"])
    assert items.labels == [0, 1, 0, 1, 0] and items.speakers == list("aabbc") and "text" not in items[1]
    extractor = AutoFeatureExtractor.from_pretrained(study / "out")
    assert type(extractor) is GraphFusionFeatureExtractor and extractor.opensmile_feature_set == "eGeMAPSv02"
    with pytest.raises(ValueError, match="was made with another transcripts"):
        run(study, "--opensmile-feature-set", "eGeMAPSv02")


def test_recogniser_and_no_text(study):
    run(study, "--set", f"model.recognizer={study / 'ctc'}", out="heard")
    heard = load_file(study / "heard/text.safetensors")
    assert len(heard) == 5 and not (study / "heard/lld.safetensors").exists()
    run(study, out="silent")
    assert not (study / "silent/text.safetensors").exists()
    with pytest.raises(ValueError, match="`--transcripts`: the recipe's model names no `text_encoder`"):
        run(study, "--set", "model.text_encoder=null", "--transcripts", "text", out="none")


class FakeXeus(torch.nn.Module):
    """Says what it was asked: layer l of frames of 320 samples is l + 1 times their sum."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode(self, waveforms, lengths, use_mask, use_final_output):
        assert not use_mask and not use_final_output and lengths.tolist() == [waveforms.shape[1]]
        frames = waveforms.unfold(1, 320, 320).sum(-1, keepdim=True) * self.weight
        return [frames * (layer + 1) for layer in range(19)], lengths // 320


def test_xeus_is_espnets_last_layer(monkeypatch):
    tiny = {"feature_sizes": {"audio": 1}, "token_sizes": {}, "fused_modalities": ["audio"]}
    config = extract_graph_features.GraphFusionConfig(**tiny, speech_encoders={"audio": "espnet/xeus"})
    monkeypatch.setitem(sys.modules, "espnet2", None)
    with pytest.raises(ImportError, match="^XEUS needs `espnet` from source: pip install .*$"):
        GraphFusionEncoders.from_config(config)
    asked = []

    def build_model_from_file(config_file, model_file, device):
        asked.append((config_file, model_file))
        return FakeXeus(), None

    task = types.SimpleNamespace(SSLTask=types.SimpleNamespace(build_model_from_file=build_model_from_file))
    for name, module in (
        ("espnet2", types.ModuleType("espnet2")),
        ("espnet2.tasks", types.ModuleType("espnet2.tasks")),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "espnet2.tasks.ssl", task)
    monkeypatch.setattr(foreign_graph_fusion, "hf_hub_download", lambda repo, file, revision: f"{repo}/{file}")
    encoders = GraphFusionEncoders.from_config(config)
    assert asked == [(None, "espnet/xeus/model/xeus_checkpoint_new.pth")]
    waveform = torch.from_numpy(noise(0.2))
    expected = 19 * waveform.view(-1, 320).sum(1, keepdim=True)
    torch.testing.assert_close(encoders(waveform)["audio"], expected)


class FakeCed(torch.nn.Module):
    """Tokens are means of 16 frames; more than the length it was made for raises."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.config = types.SimpleNamespace(target_length=64, is_encoder_decoder=False)
        self.encoder = self._encode

    def _encode(self, mel):
        assert 16 <= mel.shape[-1] <= 64
        tokens = mel[..., : mel.shape[-1] // 16 * 16].unfold(-1, 16, 16).mean(-1).transpose(1, 2)
        return types.SimpleNamespace(logits=tokens * self.weight)


def test_ced_is_the_mean_of_its_tokens_piece_by_piece():
    mel = torch.randn(2, 3, 144)
    found = GraphFusionCed(FakeCed())(mel).last_hidden_state
    torch.testing.assert_close(found, mel.mean(-1)[:, None])
    # less than a patch is left: it is not heard
    torch.testing.assert_close(
        GraphFusionCed(FakeCed())(mel[..., :70]).last_hidden_state, mel[..., :64].mean(-1)[:, None]
    )


def test_a_feature_past_float16_is_named():
    extractor = GraphFusionFeatureExtractor()
    with pytest.raises(ValueError, match="'audio': a feature is NaN, infinite or past float16"):
        extract_graph_features.clip_features(
            torch.zeros(640), None, lambda *_: {"audio": torch.full((2, 3), 1e6)}, extractor
        )
