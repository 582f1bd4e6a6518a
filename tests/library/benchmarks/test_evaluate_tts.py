import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from stand_ins import TEXT, embed

from hf_affectcodec.benchmarks.evaluate_tts import SpeechEvaluation, evaluate
from hf_affectcodec.benchmarks.tts_items import Generated, read_items
from hf_affectcodec.cli import main
from hf_affectcodec.metrics.prosody_similarity import prosody_similarity


EMOTIONS = ["angry", "happy", "happy", None]
STUBS = {
    "words": {"backend": "peak"},
    "speaker": {"backend": "moments"},
    "emotion": {"backend": "moments"},
    "recall": {"backend": "loudness"},
    "ratings": [{"backend": "distillmos"}],
}


@pytest.fixture(scope="module")
def recordings(synthesize_speech):
    """Prompts, references, and what a system said: other lengths throughout."""
    seconds = {"prompt": 0.6, "reference": 0.5, "spoken": 0.55}
    return {
        kind: [synthesize_speech(length + 0.05 * index, seed=10 * place + index) for index in range(4)]
        for place, (kind, length) in enumerate(seconds.items())
    }


@pytest.fixture
def folder(tmp_path, recordings):
    """`items.jsonl`, and the systems `loud` and `quiet` (half as loud), which lacks the clip of the last item."""
    for kind, clips in recordings.items():
        for index, clip in enumerate(clips):
            name = {"spoken": "loud"}.get(kind, kind)
            (tmp_path / name).mkdir(exist_ok=True)
            soundfile.write(tmp_path / name / f"item{index}.wav", clip, 16000, subtype="FLOAT")
    (tmp_path / "quiet").mkdir()
    for index, clip in enumerate(recordings["spoken"][:3]):
        soundfile.write(tmp_path / "quiet" / f"item{index}.flac", 0.5 * clip, 16000, subtype="PCM_24")
    rows = [
        {
            "id": f"item{index}",
            "text": TEXT,
            "prompt": f"prompt/item{index}.wav",
            "reference": f"reference/item{index}.wav",
            "language": "en",
            "speaker": f"s{index % 2}",
            "emotion": EMOTIONS[index],
        }
        for index in range(4)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def settings(folder, **changes) -> SpeechEvaluation:
    systems = {"loud": str(folder / "loud"), "quiet": str(folder / "quiet")}
    return SpeechEvaluation(**{"items": str(folder / "items.jsonl"), "systems": systems, **STUBS, **changes})


def cosine(first, second):
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def test_numbers_are_those_of_slow_loops(folder, recordings, stubs):
    table = evaluate(settings(folder, prosody={"backend": "features"}, compare_to="loud"), folder / "out")
    prompts, references, spoken = (
        [embed(clip, 16000) for clip in recordings[kind]] for kind in ("prompt", "reference", "spoken")
    )
    cells = {name: system["metrics"] for name, system in table["systems"].items()}
    assert list(cells) == ["reference", "loud", "quiet"]
    expected = {
        "reference": (references, 1.0, 0.0, 0),
        "loud": (spoken, None, 0.0, 0),
        "quiet": ([embed(0.5 * clip, 16000) for clip in recordings["spoken"][:3]], None, 1 / 4, 1),
    }
    for name, (vectors, ceiling, wer, missing) in expected.items():
        # SIM-O is to the prompt, Emo-SIM to the reference.
        sim_o = np.mean([cosine(a, b) for a, b in zip(vectors, prompts, strict=False)])
        emo_sim = np.mean([cosine(a, b) for a, b in zip(vectors, references, strict=False)])
        assert cells[name]["sim_o"]["mean"] == pytest.approx(sim_o, abs=1e-6)
        assert cells[name]["emo_sim"]["mean"] == pytest.approx(emo_sim if ceiling is None else ceiling, abs=1e-6)
        assert cells[name]["wer"]["mean"] == pytest.approx(wer)
        assert cells[name]["wil"]["mean"] == pytest.approx(wer)
        for column in ("sim_o", "emo_sim", "wer", "pros_sim"):
            assert (cells[name][column]["n"], cells[name][column]["n_failed"]) == (4 - missing, missing)
    prosody = [
        prosody_similarity(a, b, 16000) for a, b in zip(recordings["reference"], recordings["spoken"], strict=True)
    ]
    assert cells["loud"]["pros_sim"]["mean"] == pytest.approx(np.mean(prosody), abs=1e-5)
    # Loud is "angry": right for one of the three labelled items; quiet is "happy": right for two.
    assert cells["loud"]["emotion_recall"]["mean"] == pytest.approx(1 / 3)
    assert cells["quiet"]["emotion_recall"]["mean"] == pytest.approx(2 / 3)
    assert cells["quiet"]["distillmos"]["mean"] == pytest.approx(0.25, abs=1e-3)
    assert table["comparisons"]["quiet"]["wer"]["n"] == 3
    assert table["systems"]["quiet"]["failures"] == {"clip": {"`item`: quiet has no clip 'item3'": 1}}
    assert "(n_failed 1)" in (folder / "out/table.md").read_text()
    rows = [json.loads(line) for line in (folder / "out/clips.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows if row["system"] == "loud"] == [f"item{index}" for index in range(4)]


def test_emotion_against_the_prompt(folder, recordings, stubs):
    groups = {**dict.fromkeys(STUBS), "ratings": [], "emotion": STUBS["emotion"]}
    table = evaluate(settings(folder, **groups, emotion_reference="prompt"), folder / "out")
    expected = [
        cosine(embed(a, 16000), embed(b, 16000))
        for a, b in zip(recordings["spoken"], recordings["prompt"], strict=True)
    ]
    assert table["systems"]["loud"]["metrics"]["emo_sim"]["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert table["systems"]["reference"]["metrics"]["emo_sim"]["mean"] < 1


def test_only_what_changed_is_measured_again(folder, recordings, stubs):
    class Speaker:
        name, fingerprint, calls = "speaker", "1", 0

        def __call__(self, item):
            self.calls += 1
            return recordings["spoken"][item.index]

    speaker = Speaker()
    first = evaluate(settings(folder), folder / "out", [speaker])
    assert speaker.calls == 4
    assert first["systems"]["speaker"]["metrics"] == first["systems"]["loud"]["metrics"]
    rows = (folder / "out/rows/words.jsonl").read_text().count("\n")
    # One clip of the folder is spoken anew: the system's clips are measured again, the others' are not.
    soundfile.write(folder / "loud/item2.wav", 0.5 * recordings["spoken"][2], 16000, subtype="FLOAT")
    second = evaluate(settings(folder), folder / "out", [speaker])
    assert speaker.calls == 4
    assert (folder / "out/rows/words.jsonl").read_text().count("\n") == rows + 4
    assert second["systems"]["loud"]["metrics"]["wer"]["mean"] == pytest.approx(1 / 16)


def test_tables_of_clips(tmp_path, recordings):
    """One Parquet file with a row for each item and system is items and systems in one."""
    import io

    def audio(clip):
        file = io.BytesIO()
        soundfile.write(file, clip, 16000, format="FLAC")
        return {"bytes": file.getvalue(), "path": None}

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [(name, index) for name in ("a", "b") for index in range(3)]
    table = pa.table(
        {
            "system": [name for name, _ in rows],
            "id": [f"item{index}" for _, index in rows],
            "text": [TEXT] * 6,
            "audio": pa.array([audio((0.5 if n == "b" else 1) * recordings["spoken"][i]) for n, i in rows], kind),
            "prompt": pa.array([audio(recordings["prompt"][i]) for _, i in rows], kind),
        }
    )
    path = tmp_path / "clips.parquet"
    pyarrow.parquet.write_table(table, path)
    items = read_items(path)
    assert [(item.id, item.text, item.reference, item.emotion) for item in items][2] == ("item2", TEXT, None, None)
    assert len(items) == 3 and len(read_items(path, 2)) == 2
    quiet = Generated("b", path)
    assert np.abs(quiet(items[1])).max() == pytest.approx(0.25, abs=1e-3)
    assert Generated("a", path).fingerprint != quiet.fingerprint


def test_command_line(folder, stubs, capsys):
    config = folder / "config.yaml"
    config.write_text(
        f"items: {folder}/items.jsonl\nsystems: {{loud: {folder}/loud, quiet: {folder}/quiet}}\n"
        "words: {backend: peak}\nspeaker: {backend: moments}\n"
    )
    arguments = ["evaluate", "tts", "--config", str(config), "--out", str(folder / "out")]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "1 clips failed in one cell, --max-failures is 0" in captured.err
    assert captured.out == (folder / "out/table.md").read_text()
    assert main([*arguments, "--max-failures", "1"]) == 0
    assert main([*arguments, "--limit", "3"]) == 2  # other items are another protocol
    assert "rows of another protocol" in capsys.readouterr().err
    bad = folder / "bad.jsonl"
    bad.write_text('{"id": "a", "text": " "}\n')
    twice = folder / "twice.jsonl"
    twice.write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    plain = folder / "plain.jsonl"
    plain.write_text('{"id": "item0", "text": "one"}\n')
    for change, message in (
        ([f"items={bad}"], "`items`: row 0 of bad.jsonl has no `text`"),
        ([f"items={twice}"], "two rows of the id 'a' have different texts"),
        ([f"items={folder}/loud/item0.wav"], "`items` must be a .jsonl or .parquet file"),
        ([f"items={plain}"], "`speaker` needs items with a `prompt`"),
        ([f"items={plain}", "speaker=null"], "`words` needs a `language`"),
        (["systems={reference: loud}"], "`systems`: the name 'reference' is taken"),
        (["systems={x: nowhere}"], "`systems`: x has no folder or file 'nowhere'"),
        (["systems={}"], "`systems` is empty"),
        (["emotion_reference=text"], "`emotion_reference` must be one of"),
        (["words=null", "speaker=null"], "`config` names no group of columns"),
    ):
        assert main([*arguments, *(word for text in change for word in ("--set", text))]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_no_number_is_made_up_where_all_clips_are_missing(folder, stubs):
    (folder / "none").mkdir()
    table = evaluate(settings(folder, systems={"none": str(folder / "none")}), folder / "out")
    for name, cell in table["systems"]["none"]["metrics"].items():
        assert math.isnan(cell["mean"]), name
        assert cell["n"] in (0, None) and cell["n_failed"] == (0 if cell["n"] is None else 4 - cell["n_skipped"]), name
