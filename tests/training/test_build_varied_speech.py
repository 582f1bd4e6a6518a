import io

import build_varied_speech as script
import numpy as np
import parselmouth
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Features, Value, load_dataset


RATE = script.SAMPLING_RATE
FEATURES = Features(
    {
        "audio": Audio(sampling_rate=RATE),
        "text": Value("string"),
        "language": Value("string"),
        "speaker_id": Value("string"),
        "license": Value("string"),
    }
)
PITCHES = {"low": 110, "high": 190}


def vowel(pitch, seconds):
    """A buzz of a pitch that glides by 10 % through a formant at 700 Hz."""
    times = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 1.5 * times))) / RATE
    wave = sum(np.exp(-(((k * pitch - 700) / 400) ** 2)) * np.sin(k * phase) for k in range(1, 30))
    return 0.3 * wave / np.abs(wave).max()


def median_pitch(waveform):
    values = parselmouth.Sound(waveform, RATE).to_pitch(pitch_floor=70, pitch_ceiling=500).selected_array["frequency"]
    return np.median(values[values > 0])


@pytest.fixture
def source(tmp_path):
    def row(number, speaker, text, language="en"):
        file = io.BytesIO()
        soundfile.write(file, vowel(PITCHES[speaker], 1 + 0.1 * number), RATE, format="FLAC")
        audio = {"bytes": file.getvalue(), "path": f"{speaker}-{number}.flac"}
        return {"audio": audio, "text": text, "language": language, "speaker_id": speaker, "license": "CC0"}

    rows = [row(n, speaker, f"{speaker} {'x' * (n + 1)}") for speaker in PITCHES for n in range(4)]
    rows += [row(7, "low", "beep (a tone)"), row(8, "low", None), row(9, "low", " "), row(5, "high", "bonjour", "fr")]
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), tmp_path / "source.parquet")
    return tmp_path / "source.parquet"


def build(source, out, *more):
    script.main(["--source", str(source), "--hours", "en=0.02", "fr=0.002", "--out", str(out), *more])
    files = sorted(str(path) for path in out.glob("*.parquet"))
    return load_dataset("parquet", data_files=files, split="train", cache_dir=str(out / "cache"))


def read(row):
    return soundfile.read(io.BytesIO(row["audio"]["bytes"]))


def test_clips_are_joined_with_their_texts_and_speaker(source, tmp_path):
    rows = build(source, tmp_path / "out", "--voice-share", "0")
    rows = rows.cast_column("audio", Audio(decode=False)).to_list()
    english = [row for row in rows if row["language"] == "en"]
    assert sum(row["duration"] for row in english) >= 72 and {row["language"] for row in rows} == {"en", "fr"}
    assert {row["text"] for row in rows if row["language"] == "fr"} == {"Bonjour."}
    assert {len(row["clips"]) for row in english} == {1, 2, 3, 4}
    assert {row["speaker_id"] for row in english} == set(PITCHES)
    for row in english:
        numbers = [int(name.removesuffix(".flac").split("-")[1]) for name in row["clips"]]
        assert len(set(numbers)) == len(numbers) and max(numbers) < 4  # no text in brackets, no clip without one
        assert row["text"] == " ".join(f"{row['speaker_id'].capitalize()} {'x' * (n + 1)}." for n in numbers)
        spoken = sum(1 + 0.1 * n for n in numbers)
        assert spoken - 1e-3 <= row["duration"] <= spoken + script.MAX_PAUSE * (len(numbers) - 1) + 1e-3
        waveform, rate = read(row)
        assert rate == RATE and len(waveform) == round(row["duration"] * RATE)
        assert median_pitch(waveform) == pytest.approx(PITCHES[row["speaker_id"]], rel=0.05)
        assert -34 <= row["level_db"] <= -16
        # bent peaks and pauses apart, the level is what the row says
        assert 20 * np.log10(np.sqrt(np.mean(waveform**2))) == pytest.approx(row["level_db"], abs=0.5)


def test_other_voices_are_other(source, tmp_path):
    rows = build(source, tmp_path / "out", "--voice-share", "1").cast_column("audio", Audio(decode=False)).to_list()
    rows = [row for row in rows if row["speaker_id"] == "high*"]
    pitches = [median_pitch(read(row)[0]) for row in rows]
    assert len(rows) > 5 and np.std(np.log2(pitches)) > 0.1
    shifts = [row["formant_shift"] for row in rows]
    assert 0.84 <= min(shifts) < max(shifts) <= 1.18 and 1.0 not in shifts


def test_it_repeats_and_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SHARD_SECONDS", 30.0)
    build(source, tmp_path / "one", "--processes", "2")
    build(source, tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").glob("*.parquet"))
    assert names == [f"varied-{index:05d}-of-00004.parquet" for index in range(4)]
    for name in names:
        assert pq.read_table(tmp_path / "one" / name) == pq.read_table(tmp_path / "two" / name)
    assert pq.read_table(tmp_path / "one" / names[0]) != pq.read_table(tmp_path / "one" / names[1])
    kept = (tmp_path / "one" / names[0]).stat().st_mtime_ns
    (tmp_path / "one" / names[1]).unlink()
    build(source, tmp_path / "one")
    assert (tmp_path / "one" / names[0]).stat().st_mtime_ns == kept
    assert pq.read_table(tmp_path / "one" / names[1]) == pq.read_table(tmp_path / "two" / names[1])


def test_phonemes_are_joined_with_their_ends():
    def clip(phonemes, ends):
        return script.Clip("a", "b", phonemes, ends, "ann", "CC0", np.zeros(int(ends[-1] * RATE), dtype=np.int16))

    generator = np.random.default_rng(0)
    said = script.join([clip("ab", [0.5, 1.0]), clip("c", [0.25])], generator)
    pause = len(said.waveform) / RATE - 1.25
    assert 0 < pause < script.MAX_PAUSE and said.phonemes == "ab c" and said.text == "B. B."
    assert said.ends == pytest.approx([0.5, 1 + pause, 1 + pause, 1.25 + pause])


def test_ends_follow_the_rate_of_another_voice(source, tmp_path):
    table = pq.read_table(source)
    rows = [row for row in table.to_pylist() if row["text"] and "(" not in row["text"] and row["text"].strip()]
    for row in rows:
        row["phonemes"] = "ab"
        seconds = soundfile.info(io.BytesIO(row["audio"]["bytes"])).duration
        row["phoneme_ends"] = [0.4 * seconds, seconds]
    features = Features({**FEATURES, "phonemes": Value("string"), "phoneme_ends": script.FEATURES["phoneme_ends"]})
    pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), source)
    rows = build(source, tmp_path / "out", "--voice-share", "1", "--aligned").remove_columns("audio").to_list()
    assert len({row["duration"] / len(row["clips"]) for row in rows}) > 5
    for row in rows:
        assert row["phonemes"] == " ".join(["ab"] * len(row["clips"])) and len(row["phoneme_ends"]) == len(
            row["phonemes"]
        )
        assert row["phoneme_ends"] == sorted(row["phoneme_ends"])
        assert row["phoneme_ends"][-1] == pytest.approx(row["duration"], rel=1e-4)
        if len(row["clips"]) == 1:
            assert row["phoneme_ends"][0] == pytest.approx(0.4 * row["duration"], rel=1e-3)


def test_files_of_other_options_are_refused(source, tmp_path):
    build(source, tmp_path / "out")
    with pytest.raises(ValueError, match="another voice_share"):
        build(source, tmp_path / "out", "--voice-share", "0.2")
    with pytest.raises(ValueError, match="varied of other settings"):
        script.main(["--source", str(source), "--hours", "en=0.01", "--out", str(tmp_path / "out")])


def test_what_cannot_be_used_is_counted(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "MAX_SECONDS", 1.25)
    build(source, tmp_path / "out", "--hours", "en=0.002")
    printed = capsys.readouterr().out
    # of 0.1, 0.2 and so on beyond a second: three of each speaker, and none of the others
    assert "6 clips, 0.1 minutes" in printed
    assert "2 without text left out" in printed and "1 with brackets in the text left out" in printed
    assert "2 of more than 1.25 s left out" in printed


@pytest.mark.parametrize(
    "wrong",
    [["--max-clips", "0"], ["--seed", "-1"], ["--voice-share", "2"], ["--level", "-16", "-34"], ["--level", "-3", "3"]]
    + [["--hours", text] for text in ("en", "en=0", "en=nan", "=1", "en=x")]
    + [["--hours", "en=1", "en=2"], ["--processes", "0"]],
)
def test_wrong_arguments_are_named(wrong, source, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main(["--source", str(source), "--hours", "en=1", "--out", str(tmp_path), *wrong])
    assert wrong[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_language_without_clips_is_named(source, tmp_path):
    with pytest.raises(ValueError, match="`--hours`.*'de'"):
        script.main(["--source", str(source), "--hours", "de=1", "--out", str(tmp_path / "out")])


def test_a_voice_without_pitch_is_left_alone():
    noise = 0.01 * np.random.default_rng(0).standard_normal(RATE)
    noise[:-100] = 0
    assert script.change_voice(noise, script.Voice(0.9, 1.2, 1.0, 1.0)) is noise


def test_levels_by_hand():
    quiet = script.set_level(np.array([0.1, -0.1]), -20)
    assert quiet == pytest.approx([0.1, -0.1])
    loud = script.set_level(np.array([0.3, -0.3]), 0)
    assert loud == pytest.approx(np.array([1, -1]) * (0.5 + 0.45 * np.tanh(0.5 / 0.45)))
