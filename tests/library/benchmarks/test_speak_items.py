import json

import numpy as np
import pytest
import soundfile
import torch
from tiny_tts import tiny_tts

from hf_affectcodec import AffectCodecFeatureExtractor, AffectCodecTTSProcessor
from hf_affectcodec.audio import load_audio
from hf_affectcodec.benchmarks.speak_items import main
from hf_affectcodec.speak import load_tts, speak


@pytest.fixture
def folder(tmp_path):
    tiny_tts(text_vocab_size=256, min_prompt_frames=25, max_prompt_frames=150).save_pretrained(tmp_path / "tts")
    AffectCodecTTSProcessor(AffectCodecFeatureExtractor()).save_pretrained(tmp_path / "tts")
    generator = np.random.default_rng(0)
    soundfile.write(tmp_path / "prompt.wav", 0.2 * generator.standard_normal(20000), 16000)
    soundfile.write(tmp_path / "short.wav", 0.2 * generator.standard_normal(900), 16000)
    items = [
        {"id": "a", "text": "oh yes"},
        {"id": "b", "text": "oh no", "prompt": "prompt.wav"},
        {"id": "c", "text": "why not", "prompt": "short.wav"},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    return tmp_path


def test_every_item_is_spoken_or_named(folder, monkeypatch):
    monkeypatch.setattr(
        "hf_affectcodec.benchmarks.speak_items.load_transcriber", lambda source: lambda clips, rate, languages: ["no"]
    )
    out = folder / "wavs"
    arguments = ["--items", str(folder / "items.jsonl"), "--model", str(folder / "tts"), "--out", str(out)]
    assert main([*arguments, "--transcriber", "some/whisper", "--seed", "3"]) == 1
    assert sorted(path.name for path in out.glob("*.wav")) == ["a.wav", "b.wav"]
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [row["id"] for row in failures] == ["c"] and "prompt" in failures[0]["reason"]
    assert sum(json.loads((out / "stops.json").read_text()).values()) == 2
    model, processor = load_tts(str(folder / "tts"), "cpu")
    expected = speak(model, processor, "oh no", load_audio(folder / "prompt.wav", 16000), "no", seed=3)
    assert torch.allclose(load_audio(out / "b.wav", 16000), expected.audio.clamp(-1, 1), atol=2**-15)

    before = (out / "a.wav").stat().st_mtime_ns
    (out / "b.wav").unlink()
    main([*arguments, "--transcriber", "some/whisper", "--seed", "3"])
    assert (out / "a.wav").stat().st_mtime_ns == before and (out / "b.wav").exists()


def test_settings_of_generate(folder):
    arguments = ["--items", str(folder / "items.jsonl"), "--model", str(folder / "tts"), "--limit", "1"]
    assert main([*arguments, "--out", str(folder / "one"), "--generate", "max_seconds=0.2", "temperature=0.5"]) == 0
    assert main([*arguments, "--out", str(folder / "two"), "--generate", "max_seconds=0.1", "temperature=0.5"]) == 0
    one, two = (load_audio(folder / name / "a.wav", 16000) for name in ("one", "two"))
    assert two.shape[-1] < one.shape[-1] <= 3200
    assert main([*arguments, "--out", str(folder / "three"), "--generate", "max_seconds=0.2", "temperature=5.0"]) == 0
    assert not torch.equal(one, load_audio(folder / "three" / "a.wav", 16000))


@pytest.mark.parametrize(
    "wrong", ["temperature", "seed=5", "text=oh", "emotion=happy", "temperature=[1", "temprature=0.7"]
)
def test_wrong_settings_are_named(folder, wrong):
    arguments = ["--items", str(folder / "items.jsonl"), "--model", str(folder / "tts"), "--out", str(folder / "one")]
    with pytest.raises(ValueError, match=f"`--generate`.*{wrong.split('=')[0]}"):
        main([*arguments, "--generate", wrong])
    assert not (folder / "one").exists()


def test_settings_that_transformers_does_not_know(folder):
    """A generation config has the window only where somebody has written it there."""
    arguments = ["--items", str(folder / "items.jsonl"), "--model", str(folder / "tts"), "--limit", "1"]
    settings = ["--generate", "max_new_frames=3"]
    assert main([*arguments, "--out", str(folder / "one"), *settings, "alignment_window=null"]) == 0
    assert main([*arguments, "--out", str(folder / "two"), *settings, "alignment_window=[2, 3]"]) == 1
    assert "`alignment_window` needs `alignment_heads`" in (folder / "two/failures.jsonl").read_text()
