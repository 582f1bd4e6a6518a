"""`affectcodec classify`: any recogniser's folder, any audio file."""

import argparse
import json

import numpy as np
import pytest
import soundfile
from tiny_ser import LABELS, SPEECH, noise, save_graph_fusion, save_token_fusion
from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2FeatureExtractor, pipeline

from hf_affectcodec.classify import main


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_token_fusion(folder / "tokens", "encoder", seed=1)
    save_graph_fusion(folder / "graph", recognizer=None)
    return folder


def run(capsys, model, *files, **options):
    arguments = argparse.Namespace(**{"files": files, "model": model, "device": "cpu", "json": False, **options})
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out.splitlines(), [line for line in err.splitlines() if "error" in line]


@pytest.mark.parametrize("name", ["tokens", "graph"])
def test_files_of_any_kind(models, name, tmp_path, capsys):
    """Stereo and 16-bit files in a folder print what the pipeline says of the samples; a bad file is a line on stderr."""
    first, second = noise(0.9), noise(0.5, 1)
    soundfile.write(tmp_path / "a.wav", np.stack([first, first], 1), 16000, subtype="FLOAT")
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "deep/b.flac", second, 16000, subtype="PCM_16")
    (tmp_path / "deep/c.wav").write_bytes(b"RIFF")
    classifier = pipeline("audio-classification", model=str(models / name), device="cpu")
    status, lines, errors = run(capsys, str(models / name), tmp_path, json=True)
    assert status == 2 and len(errors) == 1 and "c.wav" in errors[0]
    assert [json.loads(line)["file"] for line in lines] == [str(tmp_path / "a.wav"), str(tmp_path / "deep/b.flac")]
    for line, waveform in zip(lines, (first, np.round(second * 32768) / 32768), strict=True):
        row = json.loads(line)
        expected = classifier({"array": waveform.astype(np.float32), "sampling_rate": 16000})
        expected = {item["label"]: item["score"] for item in expected}
        assert sorted(row["probabilities"]) == sorted(LABELS)
        assert row["probabilities"] == pytest.approx(expected, abs=1e-4)
        assert row["label"] == max(expected, key=expected.get)
    status, lines, errors = run(capsys, str(models / name), tmp_path / "a.wav")
    assert status == 0 and not errors and len(lines) == 1
    words = lines[0].removeprefix(f"{tmp_path / 'a.wav'}: ").split()
    assert sorted(words[::2]) == sorted(LABELS) and abs(sum(map(float, words[1::2])) - 1) < 0.002
    assert [float(word) for word in words[1::2]] == sorted((float(word) for word in words[1::2]), reverse=True)


def test_a_classifier_of_transformers(tmp_path, capsys):
    config = Wav2Vec2Config(**SPEECH, num_labels=3)
    AutoModelForAudioClassification.from_config(config).save_pretrained(tmp_path / "model")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "clip.wav", noise(0.5), 44100)
    status, lines, _ = run(capsys, str(tmp_path / "model"), tmp_path / "clip.wav")
    assert status == 0 and "LABEL_0" in lines[0]


def test_bad_arguments_are_one_line(models, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.wav").write_bytes(b"")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    for model, file, message in (
        (str(models / "tokens"), "empty", "empty: holds no audio files"),
        ("no such/thing/at all", "clip.wav", "`model` must be a folder that exists or a Hub id"),
        (str(tmp_path / "empty"), "clip.wav", "`model` .* cannot be loaded"),
        (str(tmp_path / "bert"), "clip.wav", "of type 'bert', it classifies no audio"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            main(argparse.Namespace(files=[tmp_path / file], model=model, device="cpu", json=False))
        assert "\n" not in str(caught.value)
