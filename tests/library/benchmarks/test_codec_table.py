import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from tiny import tiny_model

from hf_affectcodec import AffectCodecFeatureExtractor
from hf_affectcodec.benchmarks import codec_table
from hf_affectcodec.benchmarks.clips import read_clips
from hf_affectcodec.benchmarks.codec_table import METRICS, main, markdown, parse_model, run, tabulate, worst_failures
from hf_affectcodec.benchmarks.codecs import Original, PyAVCodec
from hf_affectcodec.benchmarks.columns.signal import measure
from hf_affectcodec.benchmarks.measuring import run_codec
from hf_affectcodec.benchmarks.rows import Rows
from hf_affectcodec.metrics.lsd import lsd
from hf_affectcodec.metrics.stoi import stoi


CHEAP = {name: METRICS[name] for name in ("stoi", "lsd")}
PROTOCOL = {"kind": "test"}


def audio_bytes(waveform: np.ndarray, container: str = "FLAC", subtype: str = "PCM_16", rate: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=container, subtype=subtype)
    return file.getvalue()


def write_parquet(path, clips: list[bytes]):
    audio = [{"bytes": data, "path": f"{index}.flac"} for index, data in enumerate(clips)]
    table = pa.table(
        {
            "audio": pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "text": ["words"] * len(clips),
            "language": ["en"] * len(clips),
            "speaker_id": [f"s{index % 2}" for index in range(len(clips))],
        }
    )
    pyarrow.parquet.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def waveforms(synthesize_speech):
    """Four clips of other lengths, as 16-bit audio has them."""
    clips = [synthesize_speech(seconds, seed=seed) for seed, seconds in enumerate((1.0, 1.2, 0.9, 1.1))]
    return [(np.round(clip * 32767) / 32768).astype(np.float32) for clip in clips]


@pytest.fixture(scope="module")
def clips(waveforms):
    return [audio_bytes(waveform) for waveform in waveforms]


@pytest.fixture
def cheap(monkeypatch):
    monkeypatch.setattr(codec_table, "METRICS", CHEAP)


class Noise:
    """Adds noise; counts its calls; on the clips named in `faults` it does what they say."""

    def __init__(self, name="noise", level=0.01, fingerprint="1", faults=None):
        self.name, self.level, self.fingerprint = name, level, fingerprint
        self.faults = faults or {}
        self.calls = 0

    def __call__(self, waveform):
        fault = self.faults.get(self.calls)
        self.calls += 1
        if fault is not None:
            return fault(waveform)
        noise = np.random.default_rng(waveform.size).standard_normal(waveform.size)
        return (waveform + self.level * noise).astype(np.float32), 100


def fail(error):
    def raise_error(waveform):
        raise error

    return raise_error


# ----- faults


def test_faulty_files_are_counted_and_the_means_are_of_the_rest(tmp_path, waveforms, clips):
    truncated = clips[3][: len(clips[3]) // 2]
    broken = waveforms[3].copy()
    broken[50] = np.nan
    data = write_parquet(
        tmp_path / "clips.parquet",
        [
            clips[0],
            audio_bytes(broken, "WAV", "FLOAT"),
            clips[1],
            audio_bytes(np.zeros(16000)),
            truncated,
            b"not audio",
            audio_bytes(waveforms[2][:1500]),  # 94 ms: too short for most
        ],
    )
    codecs = [Original(), Noise()]
    rows = run(codecs, data, tmp_path)
    table = tabulate(codecs, rows, PROTOCOL)
    for codec, system_rows in zip(codecs, rows, strict=True):
        assert [row["clip"] for row in system_rows] == list(range(7))
        assert ["clip" in row["failures"] for row in system_rows] == [False, True, False, False, True, True, False]
        assert "NaN" in system_rows[1]["failures"]["clip"]
        assert set(system_rows[3]["failures"]) == set(METRICS) - ({"distillmos"} if codec.name == "noise" else set())
        assert "silent" in system_rows[3]["failures"]["stoi"]
        assert set(system_rows[6]["failures"]) >= {"pesq_wb", "stoi"}
        system = table["systems"][codec.name]
        for metric, cell in system["metrics"].items():
            assert cell["n"] + cell["n_failed"] == 7
            measured = [row["metrics"][metric] for row in system_rows if not math.isnan(row["metrics"][metric])]
            assert cell["n"] == len(measured)
            assert cell["mean"] == pytest.approx(np.mean(measured))
        assert system["metrics"]["stoi"]["n"] == 2
        assert system["metrics"]["lsd"]["n"] == 3
        assert sum(system["failures"]["clip"].values()) == 3

    # Independently of the table, on the files that are well: clips 0 and 2 (and 6 for LSD).
    well = [waveforms[0], waveforms[1], waveforms[2][:1500]]
    noisy = [Noise()(clip)[0] for clip in well]
    cells = table["systems"]["noise"]["metrics"]
    assert cells["stoi"]["mean"] == pytest.approx(
        np.mean([stoi(x, y, 16000) for x, y in zip(well[:2], noisy[:2], strict=True)]), abs=1e-5
    )
    assert cells["lsd"]["mean"] == pytest.approx(
        np.mean([lsd(x, y, 16000) for x, y in zip(well, noisy, strict=True)]), abs=1e-5
    )
    original = table["systems"]["original"]["metrics"]
    assert original["pesq_wb"]["mean"] == pytest.approx(4.644, abs=1e-3)
    assert original["stoi"]["mean"] == pytest.approx(1)
    assert original["f0_correlation"]["mean"] == pytest.approx(1)
    assert [original[name]["mean"] for name in ("lsd", "f0_rmse_hz", "voicing_error")] == [0, 0, 0]
    assert worst_failures(table) == 5

    text = markdown(table)
    assert "(n_failed 5)" in text
    assert "- noise, clip: " in text
    assert "nan" not in text.lower().replace("(nan, counted", "").replace("nan or infinite samples", "")


def test_faulty_codecs_are_counted(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", [*clips, clips[0]])
    faults = {
        0: fail(ValueError("too short")),
        1: fail(RuntimeError("kernel size")),
        2: lambda waveform: (waveform[:-1], 10),
        3: lambda waveform: (np.full_like(waveform, np.nan), 10),
    }
    codecs = [Noise(faults=faults)]
    rows = run(codecs, data, tmp_path)
    assert rows[0][0]["failures"] == {"codec": "too short"}
    assert rows[0][1]["failures"] == {"codec": "kernel size"}
    assert rows[0][2]["failures"] == {"codec": "noise made [14399] samples of [14400]"}
    assert set(rows[0][3]["failures"]) == {"stoi", "lsd"}
    assert "NaN" in rows[0][3]["failures"]["lsd"]
    assert rows[0][4]["failures"] == {}
    cell = tabulate(codecs, rows, PROTOCOL)["systems"]["noise"]["metrics"]["lsd"]
    assert (cell["n"], cell["n_failed"], cell["mean"]) == (1, 4, rows[0][4]["metrics"]["lsd"])
    assert cell["low"] is not None and math.isnan(cell["low"])


def test_bugs_end_the_run(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    with pytest.raises(TypeError):
        run([Noise(faults={1: fail(TypeError("a bug"))})], data, tmp_path)


def test_a_silent_copy_has_no_lag(waveforms):
    result = measure(CHEAP, waveforms[0], np.zeros_like(waveforms[0]))
    assert (result["lag"], result["correlation"], result["shift"]) == (None, None, 0)
    assert result["metrics"]["lsd"] > 3


# ----- alignment


def test_a_delay_is_taken_out_before_metrics(waveforms):
    clip = waveforms[1]
    late = np.concatenate([np.zeros(160, np.float32), clip[:-160]])
    result = measure(CHEAP, clip, late)
    assert (result["lag"], result["shift"]) == (160, 160)
    assert result["correlation"] > 0.9
    assert result["metrics"]["stoi"] > 0.98 > stoi(clip, late, 16000)


def test_a_lag_without_correlation_is_not_applied(waveforms):
    noise = np.random.default_rng(0).standard_normal(waveforms[0].size).astype(np.float32) * 0.1
    result = measure(CHEAP, waveforms[0], noise)
    assert result["correlation"] < 0.5
    assert result["shift"] == 0


# ----- resuming


def without_times(rows):
    return [[{key: value for key, value in row.items() if key != "codec_seconds"} for row in clips] for clips in rows]


def test_a_run_goes_on_where_it_stopped(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    whole = run([Original(), Noise()], data, tmp_path / "whole")

    out = tmp_path / "cut"
    stopped = Noise(faults={2: fail(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        run([Original(), stopped], data, out)
    lines = (out / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 4 + 2  # protocol, original, two of noise
    # The process was killed while it wrote a line.
    with open(out / "rows.jsonl", "a") as file:
        file.write(lines[-1][:40])
    again = Noise()
    rows = run([Original(), again], data, out)
    assert again.calls == 2
    assert without_times(rows) == without_times(whole)
    assert [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()][0]["protocol"]

    again = Noise()
    run([Original(), again], data, out)
    assert again.calls == 0
    assert len((out / "rows.jsonl").read_text().splitlines()) == 1 + 4 + 4


def test_limit_grows_and_systems_join(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    codec = Noise()
    assert len(run([codec], data, tmp_path, limit=2)[0]) == 2
    assert codec.calls == 2
    rows = run([codec, Noise("other", 0.1)], data, tmp_path, limit=3)
    assert codec.calls == 3
    assert [len(clips) for clips in rows] == [3, 3]
    assert rows[1][0]["system"] == "other"


def test_changed_weights_are_measured_again(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    before = run([Noise(level=0.01, fingerprint="1")], data, tmp_path)
    changed = Noise(level=0.1, fingerprint="2")
    after = run([changed], data, tmp_path)
    assert changed.calls == 4
    assert after[0][0]["metrics"]["stoi"] < before[0][0]["metrics"]["stoi"]


def test_rows_of_another_protocol_are_refused(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    run([Noise()], data, tmp_path, limit=1)
    other = write_parquet(tmp_path / "others.parquet", clips[::-1])
    with pytest.raises(
        ValueError, match=r"`out`: rows.jsonl holds rows of another protocol \(data, data_sha256 differ"
    ):
        run([Noise()], other, tmp_path, limit=1)


def test_a_damaged_file_of_rows_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    Rows(path, PROTOCOL)
    path.write_text(path.read_text() + "{oops}\n")
    with pytest.raises(ValueError, match="`out`: rows.jsonl has a line that is not JSON"):
        Rows(path, PROTOCOL)


def test_nan_survives_the_file(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", [b"not audio", clips[0]])
    first = run([Noise()], data, tmp_path)
    assert "NaN" not in (tmp_path / "rows.jsonl").read_text()
    second = run([Noise()], data, tmp_path)
    assert math.isnan(second[0][0]["metrics"]["lsd"])
    assert second[0][1] == first[0][1]


def test_workers_give_the_rows_of_a_serial_run(tmp_path, clips):
    data = write_parquet(tmp_path / "clips.parquet", [clips[0], b"not audio", clips[1]])
    codecs = [Noise()]
    serial = run(codecs, data, tmp_path / "serial")
    parallel = run(codecs, data, tmp_path / "parallel", workers=1)
    assert repr(without_times(parallel)) == repr(without_times(serial))
    lines = [(tmp_path / name / "rows.jsonl").read_text().splitlines()[1:] for name in ("serial", "parallel")]
    assert [[json.loads(line)["clip"] for line in rows] for rows in lines] == [[0, 1, 2], [0, 1, 2]]


def test_names_must_differ(tmp_path, clips):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    with pytest.raises(ValueError, match="`codecs` must have names of their own"):
        run([Noise(), Noise()], data, tmp_path)
    with pytest.raises(ValueError, match="`limit`: no clips"):
        run([Noise()], data, tmp_path, limit=0)


# ----- reading


def test_reading(tmp_path, waveforms, clips):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    found = list(read_clips(data))
    assert [(clip.index, clip.path, clip.language, clip.speaker_id) for clip in found][:2] == [
        (0, "0.flac", "en", "s0"),
        (1, "1.flac", "en", "s1"),
    ]
    assert [clip.data for clip in found] == clips
    assert [clip.index for clip in read_clips(data, 2)] == [0, 1]
    row, sample = run_codec(Original(), found[0])
    np.testing.assert_allclose(sample.reference, waveforms[0], atol=1e-4)
    assert (row["seconds"], row["bits"]) == (1.0, 256000)

    pyarrow.parquet.write_table(pa.table({"sound": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="`path`: other.parquet has no column `audio`"):
        list(read_clips(tmp_path / "other.parquet"))
    write_parquet(tmp_path / "empty.parquet", [None])
    with pytest.raises(ValueError, match="`path`: row 0 of empty.parquet has no audio bytes"):
        list(read_clips(tmp_path / "empty.parquet"))


# ----- the table


def test_comparison_is_paired(tmp_path, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", clips)
    codecs = [Noise("a", 0.005), Noise("b", 0.1, faults={1: fail(ValueError("no"))})]
    rows = run(codecs, data, tmp_path)
    table = tabulate(codecs, rows, PROTOCOL, compare_to="a")
    differences = [rows[1][i]["metrics"]["lsd"] - rows[0][i]["metrics"]["lsd"] for i in (0, 2, 3)]
    cell = table["comparisons"]["b"]["lsd"]
    assert cell["n"] == 3
    assert cell["difference"] == pytest.approx(np.mean(differences))
    assert cell["low"] <= cell["difference"] <= cell["high"]
    assert cell["p"] == 0.25  # three differences of one sign: 2 of 8 patterns
    assert list(table["comparisons"]) == ["b"]
    assert "p 0.25, n 3" in markdown(table)
    assert "p 0.25" not in markdown(tabulate(codecs, rows, PROTOCOL))
    with pytest.raises(ValueError, match=r"`compare_to` must be one of \['a', 'b'\]"):
        tabulate(codecs, rows, PROTOCOL, compare_to="c")


def test_bitrate_is_all_bits_over_all_seconds(tmp_path, waveforms, clips, cheap):
    data = write_parquet(tmp_path / "clips.parquet", [*clips, b"not audio"])
    codecs = [Noise(faults={0: fail(ValueError("no"))})]
    table = tabulate(codecs, run(codecs, data, tmp_path), PROTOCOL)
    system = table["systems"]["noise"]
    seconds = sum(clip.size for clip in waveforms[1:]) / 16000
    assert system["n_coded"] == 3
    assert system["kbps"] == pytest.approx(3 * 100 / seconds / 1000)


def test_model_names():
    assert parse_model("runs/best") == ("best", "runs/best")
    assert parse_model("org/affectcodec") == ("affectcodec", "org/affectcodec")
    assert parse_model("ours=runs/best") == ("ours", "runs/best")


def test_command_line(tmp_path, clips, cheap, capsys):
    data = write_parquet(tmp_path / "clips.parquet", [*clips, b"not audio"])
    model = tmp_path / "tiny"
    tiny_model().save_pretrained(model)
    AffectCodecFeatureExtractor().save_pretrained(model)
    out = tmp_path / "out"
    arguments = ["--data", str(data), "--out", str(out), "--models", f"ours={model}", "--baselines", "opus-8", "mp3-8"]
    arguments += ["--compare-to", "opus-8"]
    assert main([*arguments, "--limit", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed == (out / "table.md").read_text(encoding="utf-8")
    for text in (
        "| original | 256.00 | - |",
        "| ours | 2.4",
        "| opus-8 |",
        "| mp3-8 |",
        "seed 0",
        "pesq_mode: wb",
        "n = 4 clips",
    ):
        assert text in printed
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert list(table["systems"]) == ["original", "ours", "opus-8", "mp3-8"]
    assert table["systems"]["opus-8"]["kbps"] == pytest.approx(8, rel=0.3)
    assert abs(table["systems"]["mp3-8"]["median_lag"]) <= 1
    scores = {name: system["metrics"]["stoi"]["mean"] for name, system in table["systems"].items()}
    assert scores["original"] > scores["opus-8"] > scores["ours"]

    # The whole file has a clip that is no audio.
    assert main(arguments) == 1
    assert "1 clips failed in one cell, --max-failures is 0" in capsys.readouterr().err
    assert main([*arguments, "--max-failures", "1"]) == 0
    with pytest.raises(ValueError, match="`--compare-to` must be one of"):
        main([*arguments[:-1], "opus-12"])


def test_real_codecs_in_one_table(tmp_path, clips):
    data = write_parquet(tmp_path / "clips.parquet", clips[:2])
    codecs = [Original(), PyAVCodec("opus", 24000), PyAVCodec("mp3", 8000)]
    table = tabulate(codecs, run(codecs, data, tmp_path), PROTOCOL)
    assert worst_failures(table) == 0
    scores = [system["metrics"]["pesq_wb"]["mean"] for system in table["systems"].values()]
    assert scores[0] > scores[1] > scores[2]
