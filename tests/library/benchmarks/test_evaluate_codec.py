import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from huggingface_hub import ModelCard
from stand_ins import TEXT, embed, transcribe
from tiny import tiny_model

from hf_affectcodec import AffectCodecFeatureExtractor
from hf_affectcodec.benchmarks import backends, evaluate_codec
from hf_affectcodec.benchmarks.backends import Backend
from hf_affectcodec.benchmarks.codecs import Original
from hf_affectcodec.benchmarks.evaluate_codec import CodecEvaluation, evaluate
from hf_affectcodec.benchmarks.model_index import write_model_index
from hf_affectcodec.benchmarks.tables import read_table
from hf_affectcodec.cli import main


EMOTIONS = ["angry", "happy", "angry", None]


def audio_bytes(waveform, container="FLAC", subtype="PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16000, format=container, subtype=subtype)
    return file.getvalue()


def write_parquet(path, clips: list[bytes]):
    audio = [{"bytes": data, "path": f"{index}.flac"} for index, data in enumerate(clips)]
    columns = {
        "audio": pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "text": [TEXT] * len(clips),
        "language": ["en"] * len(clips),
        "emotion": pa.array([EMOTIONS[index % 4] for index in range(len(clips))]),
        "speaker_id": [f"s{index % 2}" for index in range(len(clips))],
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def waveforms(synthesize_speech):
    clips = [synthesize_speech(0.4 + 0.02 * index, seed=index) for index in range(20)]
    return [(np.round(clip * 32767) / 32768).astype(np.float32) for clip in clips]


class Gain:
    """Makes clips quieter; on the clips named in `lengths` it loses samples."""

    def __init__(self, name, gain, lengths=()):
        self.name, self.gain, self.fingerprint = name, gain, f"gain {gain}"
        self.lengths, self.calls = lengths, 0

    def __call__(self, waveform):
        self.calls += 1
        decoded = (self.gain * waveform).astype(np.float32)
        return (decoded[:-10] if self.calls - 1 in self.lengths else decoded), 1000


@pytest.fixture
def systems(monkeypatch):
    found = [Original(), Gain("half", 0.5), Gain("quarter", 0.25)]
    monkeypatch.setattr(evaluate_codec, "load_systems", lambda models, baselines, device: found)
    return found


def settings(data, **changes) -> CodecEvaluation:
    columns = {"text": "text", "language": "language", "emotion": "emotion", "speaker": "speaker_id"}
    values = {
        "data": str(data),
        "columns": columns,
        "emotion": {"backend": "moments"},
        "recall": {"backend": "loudness"},
        "words": {"backend": "peak"},
        "speaker": {"backend": "moments"},
        "prosody": None,
        "ratings": [{"backend": "distillmos"}],
        "compare_to": "half",
    }
    return CodecEvaluation(**{**values, **changes})


def cosine(first, second):
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


# ----- numbers


def test_numbers_are_those_of_slow_loops(tmp_path, waveforms, stubs, systems):
    data = write_parquet(tmp_path / "clips.parquet", [audio_bytes(waveform) for waveform in waveforms[:8]])
    table = evaluate(settings(data), tmp_path)
    vectors = [embed(waveform, 16000) for waveform in waveforms[:8]]
    cells = {name: system["metrics"] for name, system in table["systems"].items()}

    for name, gain in (("original", 1), ("half", 0.5), ("quarter", 0.25)):
        expected = [
            cosine(embed(gain * wave, 16000), vector) for wave, vector in zip(waveforms, vectors, strict=False)
        ]
        for column in ("emo_sim", "sim_o"):
            assert cells[name][column]["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
        peaks = [gain * np.abs(waveform).max() for waveform in waveforms[:8]]
        assert cells[name]["distillmos"]["mean"] == pytest.approx(np.mean(peaks), abs=1e-4)
    assert cells["original"]["emo_sim"]["mean"] == pytest.approx(1, abs=1e-12)

    # Of 4 words, 3 and 2 are heard: WER 1/4 and 2/4; WIL = 1 - (H / 4) (H / H).
    for name, wer in (("original", 0), ("half", 1 / 4), ("quarter", 2 / 4)):
        for column in ("wer", "wil", "wer_of_original", "wil_of_original"):
            assert cells[name][column]["mean"] == pytest.approx(wer)
    # "angry" is what is loud. Of the 6 labelled clips 4 are angry.
    assert cells["original"]["emotion_recall"]["mean"] == pytest.approx(4 / 6)
    assert cells["half"]["emotion_recall"]["mean"] == pytest.approx(2 / 6)
    assert cells["half"]["emotion_unweighted_recall"]["mean"] == pytest.approx(1 / 2)
    assert cells["half"]["emotion_recall"]["n_skipped"] == 2
    assert (cells["half"]["emotion_agreement"]["n"], cells["half"]["emotion_agreement"]["mean"]) == (8, 0)

    # Clips 0, 4 (s0, angry), 2, 6 (s0, angry); 1, 5 (s1, happy); 3, 7 (s1, no label): no speaker has two emotions.
    labelled = [index for index in range(8) if EMOTIONS[index % 4] is not None]
    floor = [
        np.mean([cosine(vectors[i], vectors[j]) for j in labelled if EMOTIONS[j % 4] != EMOTIONS[i % 4]])
        for i in labelled
    ]
    anchors = table["groups"]["emotion"]["anchors"]
    assert anchors["floor (clips of other emotions)"] == pytest.approx(np.mean(floor))
    assert anchors["ceiling (the clip itself)"] == 1
    assert math.isnan(anchors["AUC of same against other emotions"])
    normalized = (cells["half"]["emo_sim"]["mean"] - np.mean(floor)) / (1 - np.mean(floor))
    assert cells["half"]["emo_sim_normalized"]["mean"] == pytest.approx(normalized)
    between = [cosine(vectors[i], vectors[j]) for i in range(8) for j in range(i) if i % 2 != j % 2]
    assert table["groups"]["speaker"]["anchors"]["floor (other speakers)"] == pytest.approx(np.mean(between))

    comparison = table["comparisons"]["quarter"]["wer"]
    assert (comparison["difference"], comparison["low"], comparison["high"]) == (0.25, 0.25, 0.25)
    assert comparison["p"] == pytest.approx(2 / 2**8, abs=0.004)  # all 8 the one way or the other
    assert comparison["n"] == 8

    rows = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    for column in ("lsd", "emo_sim", "wer", "distillmos"):
        mean = np.mean([row[column] for row in rows if row["system"] == "quarter"])
        assert mean == pytest.approx(cells["quarter"][column]["mean"])
    text = (tmp_path / "table.md").read_text()
    for words in (
        "**Emotion similarity (stub)**",
        "Read against: floor (clips of other emotions)",
        "WER, transcript of the original ↓: ",
    ):
        assert (words in text) == ("transcript" not in words)
    assert "Clips with nothing to measure, not counted: recall ↑: 2." in text


def test_without_emotions_the_floor_is_of_other_clips(tmp_path, waveforms, stubs, systems):
    data = write_parquet(tmp_path / "clips.parquet", [audio_bytes(waveform) for waveform in waveforms[:4]])
    columns = {"language": "language", "speaker": "speaker_id"}
    table = evaluate(settings(data, columns=columns, recall=None), tmp_path)
    vectors = [embed(waveform, 16000) for waveform in waveforms[:4]]
    floor = np.mean([cosine(vectors[i], vectors[(i + 2) % 4]) for i in range(4)])  # the other clip of the speaker
    anchors = table["groups"]["emotion"]["anchors"]
    assert anchors["floor (other clips of the same speaker; the data names no emotions)"] == pytest.approx(floor)
    assert "AUC of same against other emotions" not in anchors
    assert "wer" not in table["columns"] and "wer_of_original" in table["columns"]


# ----- faults


def test_faulty_clips_are_counted_and_means_are_of_the_rest(tmp_path, waveforms, stubs, systems, capsys):
    clips = [audio_bytes(waveform) for waveform in waveforms]
    good = [index for index in range(20) if index not in (3, 7, 11, 15)]
    broken = waveforms[3].copy()
    broken[50] = np.nan
    faulty = dict(enumerate(clips))
    faulty[3] = audio_bytes(broken, "WAV", "FLOAT")
    faulty[7] = audio_bytes(np.zeros(8000))
    faulty[11] = clips[11][: len(clips[11]) // 2]
    # Of another length is what the codec makes of the last: two clips before it never reach the codec.
    systems[1].lengths = (13,)
    whole = evaluate(settings(write_parquet(tmp_path / "all.parquet", list(faulty.values()))), tmp_path / "all")

    systems[1] = Gain("half", 0.5)
    part = pyarrow.parquet.read_table(tmp_path / "all.parquet").take(good)
    pyarrow.parquet.write_table(part, tmp_path / "good.parquet")
    rest = evaluate(settings(tmp_path / "good.parquet"), tmp_path / "good")

    for column, cell in whole["systems"]["half"]["metrics"].items():
        expected = rest["systems"]["half"]["metrics"][column]
        if cell["n"] is None:
            continue
        assert cell["n"] == expected["n"], column
        assert cell["mean"] == pytest.approx(expected["mean"], abs=1e-12), column
        assert cell["n"] + cell["n_failed"] + cell["n_skipped"] == 20, column
        assert cell["n_failed"] == (0 if cell["n_skipped"] else 4), column  # the faulty clips have no label
    assert {stage: sum(reasons.values()) for stage, reasons in whole["systems"]["half"]["failures"].items()} == {
        "clip": 2,
        "codec": 1,
        "lsd": 1,
        "emo_sim": 1,
        "emotion_recall": 1,
        "wer": 1,
        "sim_o": 1,
        "distillmos": 1,
    }
    assert "(n_failed 4)" in (tmp_path / "all/table.md").read_text()
    json.loads((tmp_path / "all/table.json").read_text(), parse_constant=pytest.fail)  # no NaN in JSON


def test_exit_status_follows_the_failures(tmp_path, waveforms, stubs, systems, capsys):
    data = write_parquet(tmp_path / "clips.parquet", [audio_bytes(waveforms[0]), audio_bytes(np.zeros(8000))])
    config = tmp_path / "config.yaml"
    config.write_text(f"data: '{{data_root}}/clips.parquet'\nwords: {{backend: peak}}\nlanguage: en\n# {data}\n")
    arguments = [
        "evaluate",
        "codec",
        "--config",
        str(config),
        "--data-root",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(arguments) == 1
    assert "1 clips failed in one cell, --max-failures is 0" in capsys.readouterr().err
    assert main([*arguments, "--max-failures", "1"]) == 0
    assert main([*arguments, "--limit", "1"]) == 0
    assert "**Words (stub)**" in capsys.readouterr().out
    for change, message in (
        (["--set", "emotions=1"], "`config`: unknown key 'emotions'"),
        (["--set", "emotion={backend: none}"], "`emotion` must have a `backend` of"),
        (["--set", "words={backend: peak, size: 3}"], "`words`: peak takes no 'size'"),
        (["--set", "columns={text: words}"], "`columns`: clips.parquet has no column 'words'"),
        (["--set", "columns={texts: text}"], "`columns`: unknown key 'texts'"),
        (["--set", "data=nowhere.parquet"], "`data` must be a Parquet file"),
        (["--set", "recall={backend: loudness}"], "`recall` needs `columns.emotion`"),
        (["--card", "README.md"], "`--card` and `--card-system` go together"),
    ):
        assert main([*arguments, *change]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


# ----- resuming


def test_a_run_goes_on_and_groups_join(tmp_path, waveforms, stubs, systems, monkeypatch):
    data = write_parquet(tmp_path / "clips.parquet", [audio_bytes(waveform) for waveform in waveforms[:4]])
    heard = []

    def dying(waveforms, sampling_rate, languages):
        heard.append(1)
        if len(heard) == 7:
            raise KeyboardInterrupt
        return transcribe(waveforms, sampling_rate, languages)

    def calls(**changes) -> list[int]:
        before = [system.calls for system in systems[1:]]
        evaluate(settings(data, **changes), tmp_path / "out")
        return [system.calls - count for system, count in zip(systems[1:], before, strict=True)]

    monkeypatch.setitem(backends.WORDS, "peak", lambda: Backend(dying, "stub", {}))
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings(data, emotion=None, recall=None, speaker=None, ratings=[]), tmp_path / "out")
    assert calls(emotion=None, recall=None, speaker=None, ratings=[]) == [2, 4]
    # 6 of the 12 transcripts were there; the other 6, and none again.
    assert len(heard) == 7 + 6
    assert calls(recall=None, ratings=[]) == [4, 4]  # for the new groups
    assert len(heard) == 13
    assert calls() == [4, 4]
    assert calls() == [0, 0]
    whole = evaluate(settings(data), tmp_path / "other")
    again = evaluate(settings(data), tmp_path / "out")
    for table in (whole, again):
        for system in table["systems"].values():
            system["times_real_time"] = None
    assert json.dumps(whole) == json.dumps(again)

    # Another recogniser makes other rows, and only those.
    monkeypatch.setitem(backends.WORDS, "peak", lambda: Backend(transcribe, "stub", {"source": "another"}))
    with pytest.raises(ValueError, match=r"`out`: words.jsonl holds rows of another protocol \(source differ\)"):
        evaluate(settings(data), tmp_path / "out")
    (tmp_path / "out/rows/words.jsonl").unlink()
    assert calls() == [4, 4]


# ----- real systems, and the card


def test_real_systems_and_stand_ins(tmp_path, waveforms, synthesize_speech, monkeypatch, capsys):
    data = write_parquet(
        tmp_path / "clips.parquet", [audio_bytes(synthesize_speech(1.3, seed=seed)) for seed in (1, 2)]
    )
    model = tmp_path / "tiny"
    tiny_model().save_pretrained(model)
    AffectCodecFeatureExtractor().save_pretrained(model)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {data}\nmodels: {{ours: {model}}}\nbaselines: [opus-24, mp3-8]\nemotion: {{backend: egemaps}}\n"
        "prosody: {backend: features}\ntokens: true\ndataset: {type: org/clips, name: clips, split: test}\n"
    )
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n# Ours\n")
    out = tmp_path / "out"
    arguments = ["evaluate", "codec", "--config", str(config), "--out", str(out)]
    # An untrained model has no voice, so no F0 to compare.
    assert main([*arguments, "--card", str(card), "--card-system", "ours"]) == 1
    assert main([*arguments, "--max-failures", "2"]) == 0
    table = read_table(out / "table.json")
    cells = {name: system["metrics"] for name, system in table["systems"].items()}
    ours, opus, mp3, original = (cells[name] for name in ("ours", "opus-24", "mp3-8", "original"))
    assert (ours["pros_sim"]["n"], ours["pros_sim"]["n_failed"]) == (0, 2)
    for column in ("pesq_wb", "pesq_nb", "stoi", "emo_sim"):
        assert original[column]["mean"] > opus[column]["mean"] > mp3[column]["mean"] > ours[column]["mean"], column
    assert original["pros_sim"]["mean"] > opus["pros_sim"]["mean"] > mp3["pros_sim"]["mean"]
    assert (original["pros_sim"]["mean"], original["emo_sim"]["mean"]) == (1, pytest.approx(1))
    assert "slice_consistency" not in opus and 0 <= ours["slice_consistency"]["mean"] <= 1
    assert 0 < ours["codebook_usage"]["mean"] <= 1
    assert ours["codebook_entropy_kbps"]["mean"] <= 50 * 8 * 6 / 1000  # 8 codebooks of 64
    assert "stand-in: eGeMAPSv02 functionals" in (out / "table.md").read_text()

    results = {result.metric_type: result for result in ModelCard.load(card).data.eval_results}
    assert results["emo_sim"].metric_value == pytest.approx(ours["emo_sim"]["mean"], abs=1e-4)
    assert results["emo_sim"].metric_name == "Emo-SIM ↑ (Emotion similarity (stand-in: eGeMAPSv02 functionals))"
    assert (results["emo_sim"].dataset_type, results["emo_sim"].dataset_args["clips"]) == ("org/clips", 2)
    assert "pros_sim" not in results  # nothing was measured
    # Measured again, a result is replaced and not doubled; another data set's stands beside it.
    table["systems"]["ours"]["metrics"]["emo_sim"]["mean"] = 0.5
    write_model_index(card, table, "ours", {"type": "org/clips", "name": "clips", "split": "test"})
    write_model_index(card, table, "ours", {"type": "org/others", "name": "others"})
    found = [result for result in ModelCard.load(card).data.eval_results if result.metric_type == "emo_sim"]
    assert [(result.dataset_type, result.metric_value) for result in found] == [
        ("org/clips", 0.5),
        ("org/others", 0.5),
    ]
    assert "# Ours" in card.read_text()
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG") and (out / "table.png").stat().st_size > 50_000
    with pytest.raises(ValueError, match="`system` must be one of"):
        write_model_index(card, table, "theirs", {"type": "a", "name": "b"})
    with pytest.raises(ValueError, match="`dataset` lacks 'type'"):
        write_model_index(card, table, "ours", {"name": "b"})
