import io

import align_speech as script
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Features, Value


RATE = script.SAMPLING_RATE
FORMANTS = {"a": (700, 1200), "i": (300, 2300), "u": (320, 800), "e": (450, 1900), "y": (300, 1800), "s": (5000, 6000)}
FEATURES = Features(
    {
        "audio": Audio(sampling_rate=RATE),
        "text": Value("string"),
        "language": Value("string"),
        "speaker_id": Value("string"),
        "license": Value("string"),
    }
)


def say(symbols, seconds, pitch, scale=1.0, seed=0):
    """Symbols that last so long each, in a voice of a pitch and a scale of the formants; noise for `s`."""
    generator, parts, phase = np.random.default_rng(seed), [], 0.0
    for symbol, length in zip(symbols, seconds, strict=True):
        times = np.arange(int(length * RATE)) / RATE
        if symbol == "s":
            noise = np.diff(generator.standard_normal(len(times) + 1))
            parts.append(0.05 * noise)
            continue
        harmonics = np.arange(1, int(7000 / pitch))[:, None]
        gain = sum(np.exp(-(((harmonics * pitch - scale * f) / 250) ** 2)) for f in FORMANTS[symbol]) + 1e-3
        parts.append((gain * np.sin(harmonics * (2 * np.pi * pitch * times + phase))).sum(0) * 0.1)
        phase += 2 * np.pi * pitch * len(times) / RATE
    wave = np.concatenate(parts)
    return wave + 1e-4 * generator.standard_normal(len(wave))


class Engine:
    """Says the letters of a text, a tenth of a second each; knows no `i` in German."""

    sampling_rate = RATE

    def __init__(self):
        self.voice = type("Voice", (), {"config": type("Config", (), {"espeak_voice": None})()})()
        self.languages = []

    def __call__(self, text, length_scale):
        self.languages.append(self.voice.config.espeak_voice)
        symbols = text.lower().strip(".")
        if self.voice.config.espeak_voice == "de" and "i" in symbols:
            return np.zeros(RATE), "", []
        return say(symbols, [0.1] * len(symbols), 110.0), symbols, [0.1 * (n + 1) for n in range(len(symbols))]


@pytest.mark.parametrize("seed", range(3))
def test_planted_ends_are_found_in_another_voice_at_another_pace(seed):
    generator = np.random.default_rng(seed)
    symbols = "asiuesaiesu"
    lengths = generator.uniform(0.06, 0.2, len(symbols))
    clip = 0.3 * say(symbols, lengths, 190.0, 1.12, seed + 5)
    times, cost = script.carry_over(
        [0.1 * (n + 1) for n in range(len(symbols))], say(symbols, [0.1] * len(symbols), 110.0), clip
    )
    truth = np.cumsum(lengths)
    assert np.abs(np.asarray(times) - truth).max() < 0.03
    assert times[-1] == len(clip) / RATE and times == sorted(times)
    other = say("uuiaasseeai", lengths, 190.0, 1.12)
    assert (
        script.carry_over(
            [0.1 * (n + 1) for n in range(len(symbols))], say(symbols, [0.1] * len(symbols), 110.0), other
        )[1]
        > cost
    )


@pytest.fixture
def source(tmp_path):
    def row(name, text, language, lengths):
        file = io.BytesIO()
        soundfile.write(file, say(name, lengths, 180.0, 1.1), RATE, format="FLAC")
        audio = {"bytes": file.getvalue(), "path": f"{name}.flac"}
        return {"audio": audio, "text": text, "language": language, "speaker_id": "ann", "license": "CC0"}

    rows = [
        row("asie", "asie", "en", [0.2, 0.1, 0.15, 0.1]),
        row("usai", "Usai.", "fr", [0.1, 0.2, 0.1, 0.2]),
        row("as", "as (beep)", "en", [0.2, 0.2]),
        row("ue", None, "en", [0.2, 0.2]),
        row("u", "...", "en", [0.2]),
        row("e", "e", "en", [0.05]),
        row("ae", "ae", None, [0.2, 0.2]),
        row("ia", "ia", "de", [0.2, 0.2]),
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), tmp_path / "source.parquet")
    return str(tmp_path / "source.parquet")


def test_rows_keep_the_clip_and_tell_its_phonemes(source):
    engine = Engine()
    rows, left_out = script.align(engine, source, "train", None)
    assert left_out == {
        "with brackets in the text": 1,
        "without text or language": 2,
        "without anything to speak": 1,
        "silent or too short": 1,
        "with symbols that the voice does not know": 1,
    }
    assert [(row["text"], row["phonemes"], row["language"]) for row in rows] == [
        ("asie", "asie", "en"),
        ("Usai.", "usai", "fr"),
    ]
    assert engine.languages == ["en-us", "fr-fr", "en-us", "de"]
    assert rows[0]["phoneme_ends"] == pytest.approx([0.2, 0.3, 0.45, 0.55], abs=0.03)
    assert rows[0]["duration"] == pytest.approx(0.55)
    waveform, rate = soundfile.read(io.BytesIO(rows[0]["audio"]["bytes"]))
    assert rate == RATE and len(waveform) == 0.55 * RATE
    assert [row["language"] for row in script.align(engine, source, "train", ["fr"])[0]] == ["fr"]
    with pytest.raises(ValueError, match=r"no clip.*'de'.*1 with symbols"):
        script.align(engine, source, "train", ["de"])


def test_the_check_finds_a_displaced_truth(source, tmp_path, monkeypatch, capsys):
    rows, _ = script.align(Engine(), source, "train", ["en"])
    monkeypatch.setattr(script, "PiperEngine", lambda path, seed: Engine())
    for shift, expected in ((0.0, "median error 0 ms"), (0.05, "median error 50 ms")):
        moved = [{**row, "phoneme_ends": [end + shift for end in row["phoneme_ends"]]} for row in rows]
        path = tmp_path / f"moved-{shift}.parquet"
        pq.write_table(pa.Table.from_pylist(moved, schema=script.FEATURES.arrow_schema), path)
        script.main(["--source", str(path), "--voice", "any.onnx", "--check", "5"])
        assert f"3 ends of symbols: {expected}" in capsys.readouterr().out


def test_the_file_is_written(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "PiperEngine", lambda path, seed: Engine())
    script.main(["--source", source, "--voice", "any.onnx", "--out", str(tmp_path / "new" / "train.parquet")])
    printed = capsys.readouterr().out
    assert "2 clips" in printed and "1 silent or too short left out" in printed
    assert pq.read_table(tmp_path / "new" / "train.parquet")["phonemes"].to_pylist() == ["asie", "usai"]
    for wrong, named in (
        ([], "--out"),
        (["--out", "a.parquet", "--check", "3"], "--check"),
        (["--out", "folder"], "--out"),
        (["--check", "0"], "--check"),
    ):
        with pytest.raises(SystemExit):
            script.main(["--source", source, "--voice", "any.onnx", *wrong])
        assert named in capsys.readouterr().err.splitlines()[-1]


def test_a_voice_that_does_not_tell_is_named(monkeypatch):
    monkeypatch.setattr(script, "PiperEngine", lambda path, seed: lambda text, scale: (np.zeros(RATE), "", []))
    with pytest.raises(ValueError, match="`--voice`.*patch_voice_with_alignment"):
        script.load_voice("any.onnx", 0)


def test_silence_is_refused():
    with pytest.raises(ValueError, match="silent or too short"):
        script.carry_over([0.5, 1.0], say("ai", [0.5, 0.5], 110.0), np.zeros(RATE))


def test_a_check_without_the_same_symbols_is_refused(source, tmp_path, monkeypatch):
    rows, _ = script.align(Engine(), source, "train", ["en"])
    rows = [{**row, "phonemes": "other"} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=script.FEATURES.arrow_schema), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="`--check`"):
        script.check(Engine(), str(tmp_path / "other.parquet"), "train", 5)
