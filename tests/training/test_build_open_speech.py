import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import build_open_speech as script
import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from hf_affectcodec.data.clips import load_clips


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")

TRANSCRIPTS = """\ufeff; Core Asterisk Sounds in English

hello: Hello.
digits/1: un
digits/1:  one \t
tt-monkeys: [sound of monkeys screaming]
letters/at: at [@]
late:  it is: late.
"""


def tone(samples: int, rate: int = 16_000) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * 300 * np.arange(samples) / rate)).astype(np.int16)


def g722(samples: np.ndarray) -> bytes:
    encoder = av.CodecContext.create("g722", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 16_000, "mono", "s16"
    packets = []
    for begin in range(0, len(samples), 320):
        frame = av.AudioFrame.from_ndarray(samples[None, begin : begin + 320], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, begin
        packets += encoder.encode(frame)
    return b"".join(bytes(packet) for packet in packets + encoder.encode(None))


def make_deb(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    root = folder / f"{package}.tree"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: none <none@example.org>\nDescription: test\n"
    )
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    deb = folder / f"{package}_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(deb)], check=True, capture_output=True)
    shutil.rmtree(root)
    return deb


@pytest.fixture
def debs(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "debs"
    folder.mkdir()
    sounds = "usr/share/asterisk/sounds/en_US_f_Allison"
    prompts = ["hello", "digits/1", "tt-monkeys", "letters/at", "late", "unwritten"]
    make_deb(
        folder,
        "asterisk-core-sounds-en-g722",
        {f"{sounds}/{name}.g722": g722(tone(9600 + 320 * index)) for index, name in enumerate([*prompts, "unlisted"])},
    )
    make_deb(
        folder,
        "asterisk-core-sounds-en",
        {"usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz": gzip.compress(TRANSCRIPTS.encode())},
    )
    voices = {}
    for voice, rate, channels in (("British", 44_100, 2), ("Default_ru", 48_000, 1), ("Pirate", 44_100, 2)):
        for line in ("Laugh", "Fire"):
            buffer = io.BytesIO()
            soundfile.write(buffer, np.stack([tone(rate, rate)] * channels, 1), rate, format="OGG")
            voices[f"usr/share/games/hedgewars/Data/Sounds/voices/{voice}/{line}.ogg"] = buffer.getvalue()
    make_deb(folder, "hedgewars-data", voices)
    return folder


@pytest.fixture
def splits(tmp_path):
    path = tmp_path / "splits.json"
    train = ["en/unwritten", "en/hello", "en/tt-monkeys", "en/digits/1"]
    path.write_text(
        json.dumps(
            {
                "open-prompts": {"splits": {"train": train, "validation": ["en/letters/at"], "test": ["en/late"]}},
                "expressive-voices": {"splits": {"train": ["British/Fire", "British/Laugh", "Default_ru/Laugh"]}},
            }
        )
    )
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_dpkg
def test_builds_both_sets(debs, splits, tmp_path):
    out = tmp_path / "out"
    script.build(out, debs, splits)

    prompts = {
        split: [row for file in files for row in pq.read_table(out / "open-prompts" / file).to_pylist()]
        for split, files in script.PROMPT_FILES.items()
    }
    assert [row["audio"]["path"] for row in prompts["train"]] == [
        "en/unwritten.flac",
        "en/hello.flac",
        "en/tt-monkeys.flac",
        "en/digits/1.flac",
    ]
    assert [row["text"] for row in prompts["train"]] == ["", "Hello.", "", "one"]
    assert [row["text"] for row in prompts["validation"] + prompts["test"]] == ["at [@]", "it is: late."]
    row = prompts["train"][1]
    assert (row["language"], row["speaker_id"], row["gender"], row["license"]) == (
        "en",
        "allison_en",
        "female",
        "CC-BY-SA-3.0",
    )
    samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="int16")
    assert rate == 16_000 and len(samples) == 9600 and row["duration"] == pytest.approx(0.6)
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(spectrum.argmax() * 16_000 / 9600 - 300) < 2 and 7000 < np.abs(samples[2000:]).max() < 9000

    voices = pq.read_table(out / "expressive-voices" / "train-00000-of-00001.parquet").to_pylist()
    assert [(row["speaker_id"], row["line"], row["emotion"], row["language"]) for row in voices] == [
        ("British", "Fire", None, "en"),
        ("British", "Laugh", "happy", "en"),
        ("Default_ru", "Laugh", "happy", "ru"),
    ]
    assert all(row["license"] == "GFDL-1.3" for row in voices)
    for row in voices:
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="int16")
        # FFmpeg takes the first samples of an Ogg Vorbis file for the encoder's delay
        assert rate == 16_000 and abs(len(samples) - 16_000) < 100 and 7000 < np.abs(samples).max() < 10_000


@needs_dpkg
def test_what_it_writes_is_read_as_audio(debs, splits, tmp_path):
    script.build(tmp_path / "out", debs, splits)
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out/open-prompts/test-*.parquet"), split="train", streaming=True
    )
    assert rows.features == script.PROMPT_FEATURES
    assert isinstance(rows.features["audio"], datasets.Audio) and rows.features["audio"].sampling_rate == 16_000
    clips = load_clips(tmp_path / "out/open-prompts", "train", {"audio": "audio", "text": "text"}, progress=False)
    assert clips.columns["text"] == ["", "Hello.", "", "one"] and clips.names[1] == "en/hello.flac"


@needs_dpkg
def test_is_idempotent(debs, splits, tmp_path, monkeypatch):
    out = tmp_path / "out"
    script.build(out, debs, splits)
    built = files_below(out)
    assert sorted(built) == sorted(
        [f"open-prompts/{file}" for files in script.PROMPT_FILES.values() for file in files]
        + ["expressive-voices/train-00000-of-00001.parquet"]
    )
    script.build(out, debs, splits, force=True)
    assert files_below(out) == built
    (out / "open-prompts" / script.PROMPT_FILES["test"][0]).unlink()
    script.build(out, debs, splits)
    assert files_below(out) == built
    monkeypatch.setattr(script, "read_package", lambda *arguments: pytest.fail("built again"))
    script.build(out, debs, splits)


@needs_dpkg
def test_checks_the_samples(debs, splits, tmp_path):
    content = json.loads(splits.read_text())
    content["open-prompts"]["sha256"] = "0" * 64
    splits.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="open-prompts: the samples are not those"):
        script.build(tmp_path / "out", debs, splits)
    assert not (tmp_path / "out").exists()


@needs_dpkg
def test_bad_packages_are_named(debs, splits, tmp_path):
    out = tmp_path / "out"
    deb = debs / "asterisk-core-sounds-en-g722_1_all.deb"
    whole = deb.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no package"):
        deb.write_bytes(content)
        with pytest.raises(ValueError, match="g722_1_all.deb: cannot be read") as caught:
            script.build(out, debs, splits)
        assert "\n" not in str(caught.value)
    deb.unlink()
    with pytest.raises(ValueError, match="no asterisk-core-sounds-en-g722_"):
        script.build(out, debs, splits)
    deb.write_bytes(whole)
    content = json.loads(splits.read_text())
    content["open-prompts"]["splits"]["test"].append("en/nothing")
    splits.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks 1 files, among them .*/nothing.g722"):
        script.build(out, debs, splits)
    assert not out.exists()
    with pytest.raises(ValueError, match="`debs` = .*: not a folder"):
        script.build(out, debs / "none", splits)


@needs_dpkg
def test_a_damaged_clip_is_named(debs, splits, tmp_path):
    content = {"expressive-voices": json.loads(splits.read_text())["expressive-voices"]}
    splits.write_text(json.dumps(content))
    root = "usr/share/games/hedgewars/Data/Sounds/voices"
    names = ["British/Fire", "British/Laugh", "Default_ru/Laugh"]
    make_deb(debs, "hedgewars-data", {f"{root}/{name}.ogg": b"OggS and no more" for name in names})
    with pytest.raises(ValueError, match="^British/Fire: cannot be decoded"):
        script.build(tmp_path / "out", debs, splits)


def test_without_the_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="`apt-get` is not here"):
        script.fetch_packages(["hedgewars-data"], tmp_path)
    with pytest.raises(ValueError, match="`dpkg-deb` is not here"):
        script.read_package(tmp_path / "a.deb", lambda name: True)


def test_command_line(tmp_path):
    command = [sys.executable, script.__file__, "--out", str(tmp_path / "out"), "--debs", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.strip() == f"error: `debs` = {tmp_path / 'none'}: not a folder"


def test_the_shipped_splits_are_sound():
    sets = json.loads(script.SPLITS.read_text())
    prompts, voices = sets["open-prompts"]["splits"], sets["expressive-voices"]["splits"]
    assert {split: len(names) for split, names in prompts.items()} == {"train": 2238, "validation": 133, "test": 126}
    names = [name for split in prompts.values() for name in split]
    assert len(set(names)) == len(names) == 2497
    assert {name.split("/")[0] for name in names} == set(script.PROMPT_VOICES)
    assert len(set(voices["train"])) == len(voices["train"]) == 667
    lines = {name.split("/")[1] for name in voices["train"]}
    assert set(script.EMOTIONS) <= lines
    counts = dict.fromkeys([*script.EMOTION_LINES, None], 0)
    for name in voices["train"]:
        counts[script.EMOTIONS.get(name.split("/")[1])] += 1
    assert counts == {"angry": 131, "neutral": 127, "pained": 98, "happy": 84, "fearful": 84, None: 143}
    # speech kept aside to check results on
    assert not {"Mobster", "Pirate", "Default_pl"} & {name.split("/")[0] for name in voices["train"]}
