import io
from functools import partial

import build_synthetic_speech as script
import numpy as np
import parselmouth
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import load_dataset


def vowel(sampling_rate=22_050, seconds=1.5):
    """A voice of 120 Hz, which glides by 15 %, through two formants."""
    times = np.arange(int(seconds * sampling_rate)) / sampling_rate
    pitch = 120 * (1 + 0.15 * np.sin(2 * np.pi * 1.5 * times))
    phase = 2 * np.pi * np.cumsum(pitch) / sampling_rate
    wave = sum(
        np.exp(-(((k * 120 - 700) / 300) ** 2)) * np.sin(k * phase)
        + 0.5 * np.exp(-(((k * 120 - 1200) / 300) ** 2)) * np.sin(k * phase)
        for k in range(1, 40)
    )
    return 0.5 * wave / np.abs(wave).max()


class Engine:
    """Says nothing but a vowel, a quarter of a second for each word."""

    name, sampling_rate = "vowel", 22_050

    def __init__(self, seed, said):
        self.seed, self.said = seed, said

    def __call__(self, text, length_scale):
        self.said.append((self.seed, text))
        seconds = 0.25 * length_scale
        ends = [seconds * (n + 1) for n in range(len(text.split()))]
        return vowel(seconds=ends[-1]), "a" * len(ends), ends


def pitch_of(waveform, sampling_rate):
    pitch = parselmouth.Sound(waveform, sampling_rate).to_pitch(pitch_floor=60, pitch_ceiling=500)
    values = pitch.selected_array["frequency"]
    return values[values > 0]


@pytest.mark.parametrize("name", list(script.MOODS))
def test_a_mood_sets_median_range_and_loudness_of_the_pitch(name):
    mood, speaker = script.MOODS[name], script.Speaker("a", 130.0, 1.1)
    source = vowel()
    changed = script.colour(source, 22_050, speaker, mood)
    before, after = pitch_of(source, 22_050), pitch_of(changed, 22_050)
    assert np.median(after) == pytest.approx(130 * mood.pitch, rel=0.05)
    spread = (np.std(after) / np.median(after)) / (np.std(before) / np.median(before))
    assert spread == pytest.approx(mood.pitch_range, rel=0.2)
    assert np.abs(changed).max() == pytest.approx(min(0.95, 0.4 * 10 ** (mood.gain_db / 20)), rel=1e-6)


def test_formants_move_with_the_speaker():
    def centre(waveform):
        spectrum = np.abs(np.fft.rfft(waveform)) ** 2
        frequencies = np.fft.rfftfreq(len(waveform), 1 / 22_050)
        return (spectrum * frequencies).sum() / spectrum.sum()

    short, long = (
        script.colour(vowel(), 22_050, script.Speaker("a", 120.0, shift), script.MOODS["neutral"])
        for shift in (1.25, 0.88)
    )
    assert centre(short) / centre(long) == pytest.approx(1.25 / 0.88, rel=0.15)


def wordnet(folder):
    for part in ("noun", "verb", "adj", "adv"):
        lines = ['  1 This software and database is being provided "to you"', "0001 04 n 01 a 0 000 | no example"]
        if part == "verb":
            lines.append(
                '0002 29 v 01 see 0 000 | perceive; "I see the ship"; "she saw, and left" ; "one"; "4 ships came"'
            )
        (folder / f"data.{part}").write_text("\n".join(lines) + "\n", encoding="latin-1")
    return folder


def test_wordnet_examples_by_hand(tmp_path):
    assert script.wordnet_examples(wordnet(tmp_path)) == ["I see the ship", "she saw, and left"]
    (tmp_path / "data.adv").unlink()
    with pytest.raises(ValueError, match="--wordnet.*data.adv"):
        script.wordnet_examples(tmp_path)


def test_excluded_texts_and_doubles_are_never_said():
    splits = script.split_texts(["I see the ship", "go home!", "Go home", "the end"], ["i SEE, the ship."])
    assert splits == {"train": ["Go home!", "The end."], "validation": []}
    with pytest.raises(ValueError, match="--texts"):
        script.split_texts(["a b"], ["A b."])
    many = script.split_texts([f"word {'x' * n} end" for n in range(1, 1500)], [])
    assert 5 <= len(many["validation"]) <= 30 and len(many["train"]) + len(many["validation"]) == 1499


def test_speakers_of_the_splits_are_strangers():
    train, validation = script.draw_speakers("train", 0), script.draw_speakers("validation", 0)
    assert len({speaker.name for speaker in train + validation}) == 56
    assert len({speaker.formant_shift for speaker in train + validation}) == 56
    assert script.draw_speakers("train", 0) == train != script.draw_speakers("train", 1)


def test_what_is_built_is_a_labelled_data_set_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SHARD_CLIPS", 6)
    texts = {"train": [f"Say number {'x' * n} now." for n in range(1, 9)], "validation": ["Never mind this."]}
    said = []
    hours = script.build(partial(Engine, said=said), texts, tmp_path, 0.006, seed=3)
    assert len({seed for seed, _ in said}) == 1 + len(list(tmp_path.glob("train-*")))
    shards = sorted(tmp_path.glob("train-*.parquet"))
    assert hours >= 0.006 and len(shards) > 1
    rows = load_dataset("parquet", data_files=[str(path) for path in shards], split="train")
    assert sum(rows["duration"]) / 3600 == pytest.approx(hours)
    assert rows.features["audio"].sampling_rate == 16_000 and set(rows["emotion"]) <= set(script.MOODS)
    assert all(rows["synthetic"]) and set(rows["engine"]) == {"vowel"}
    assert {text for row in rows["text"] for text in texts["train"] if text in row} == set(texts["train"])
    first = pq.read_table(shards[0]).to_pylist()[0]
    waveform, rate = soundfile.read(io.BytesIO(first["audio"]["bytes"]))
    assert rate == 16_000 and len(waveform) / rate == pytest.approx(first["duration"])
    assert first["phonemes"] == "a" * len(first["text"].split()) and len(first["phoneme_ends"]) == len(
        first["phonemes"]
    )
    assert first["phoneme_ends"][-1] == pytest.approx(first["duration"], abs=1e-3)
    assert np.median(pitch_of(waveform, rate)) == pytest.approx(first["median_pitch"], rel=0.05)

    contents = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    shards[-1].unlink()
    said.clear()
    script.build(partial(Engine, said=said), texts, tmp_path, 0.006, seed=3)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.parquet")} == contents
    assert 0 < len(said) <= 6


def test_processes_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SHARD_CLIPS", 3)
    texts = {"train": [f"Say number {'x' * n} now." for n in range(1, 9)], "validation": ["Never mind this."]}
    for name, processes in (("one", 1), ("two", 2)):
        script.build(partial(Engine, said=[]), texts, tmp_path / name, 0.002, seed=3, processes=processes)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) >= 2 and one.items() <= two.items()


def test_levels_change_nothing_but_the_level_of_training_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SHARD_CLIPS", 6)
    texts = {"train": [f"Say number {'x' * n} now." for n in range(1, 9)], "validation": ["Never mind this."]}
    for name, levels in (("as_said", (0.0, 0.0)), ("varied", (-20.0, -2.0))):
        script.build(partial(Engine, said=[]), texts, tmp_path / name, 0.002, seed=3, levels=levels)
    validation = [(tmp_path / name / "validation-00000.parquet").read_bytes() for name in ("as_said", "varied")]
    assert validation[0] == validation[1]
    as_said, varied = (
        pq.read_table(tmp_path / name / "train-00000.parquet").to_pylist() for name in ("as_said", "varied")
    )
    assert [row["level_db"] for row in as_said] == [0.0] * len(as_said)
    levels = [row["level_db"] for row in varied]
    assert len(set(levels)) == len(levels) and min(levels) >= -20 and max(levels) <= -2
    for one, other in zip(as_said, varied, strict=True):
        before, after = (soundfile.read(io.BytesIO(row["audio"]["bytes"]))[0] for row in (one, other))
        expected = script.bend_peaks(before * 10 ** (other["level_db"] / 20))
        assert np.abs(after - expected).max() < 1e-4
        differ = {key for key in one if one[key] != other[key]}
        assert differ == {"audio", "level_db"}


def test_shards_of_other_levels_are_refused(tmp_path):
    texts = {"train": ["Say this now."], "validation": ["Never mind this."]}
    script.build(partial(Engine, said=[]), texts, tmp_path, 0.0001, seed=3, levels=(-20.0, -10.0))
    with pytest.raises(ValueError, match="`--levels`.*train-00000"):
        script.build(partial(Engine, said=[]), texts, tmp_path, 0.0001, seed=3)
    with pytest.raises(SystemExit):
        script.main(["--voice", "any.onnx", "--out", str(tmp_path), "--levels", "3", "-3"])


def test_spaces_are_single_and_between_symbols():
    """As the front end has them: else symbols and their ends would not be as many."""
    assert script.without_extra_spaces(" a  b ", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == ("a b", [2.0, 4.0, 6.0])
    assert script.without_extra_spaces("a b", [1.0, 2.0, 3.0]) == ("a b", [1.0, 2.0, 3.0])
    assert script.without_extra_spaces("a  ", [1.0, 2.0, 3.0]) == ("a", [3.0])


def test_bent_peaks_by_hand():
    bent = script.bend_peaks(np.array([0.5, -0.4, 0.95, -1.4]))
    expected = [0.5, -0.4, 0.5 + 0.45 * np.tanh(1), -0.5 - 0.45 * np.tanh(2)]
    assert bent == pytest.approx(expected)


def test_ends_of_symbols_by_hand():
    """The silence before the first symbol and after the last is theirs."""
    alignment = [("^", 10), ("h", 5), ("\u02c8", 0), ("i", 7), (".", 3), ("$", 20)]
    assert script.symbol_ends(alignment) == ("hˈi.", [15, 15, 22, 45])


def test_sentences_of_a_clip_are_aligned_in_a_row(monkeypatch):
    class Part:
        def __init__(self, phoneme, num_samples):
            self.phoneme, self.num_samples = phoneme, num_samples

    class Chunk:
        def __init__(self, symbols, each, aligned=True):
            self.audio_float_array = np.zeros(each * len(symbols), dtype=np.float32)
            self.phoneme_alignments = [Part(symbol, each) for symbol in symbols] if aligned else None

    class Voice:
        def synthesize(self, text, settings, include_alignments):
            assert include_alignments
            return [Chunk("^ab.$", 10), Chunk("^cd$", 20, aligned=text != "bare")]

    engine = object.__new__(script.PiperEngine)
    engine.voice, engine.sampling_rate, engine._settings = Voice(), 10, lambda length_scale: None
    waveform, symbols, ends = engine("text", 1.0)
    assert len(waveform) == 130 and symbols == "ab. cd"
    assert ends == [2.0, 3.0, 5.0, 5.0, 9.0, 13.0]
    assert engine("bare", 1.0)[1:] == ("", [])


def test_a_missing_engine_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "piper", None)
    with pytest.raises(ImportError, match="pip install piper-tts"):
        script.PiperEngine(tmp_path / "voice.onnx", 0)
