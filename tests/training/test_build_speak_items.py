"""Lists of items: whose voice and mood, who says what, nothing twice, the same again."""

import io
import json

import build_speak_items as script
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from hf_affectcodec.benchmarks.tts_items import read_items, read_waveform


RATE = 16_000
MOODS = ("angry", "sad")


def audio(seconds, value):
    file = io.BytesIO()
    soundfile.write(file, np.full(int(seconds * RATE), value), RATE, format="FLAC")
    return {"bytes": file.getvalue(), "path": f"{value}.flac"}


@pytest.fixture
def clips(tmp_path):
    """Two speakers in two moods, five clips of 1, 1.6, 2, 2.9 and 4 s each; a clip's number is its amplitude in thousandths."""
    rows = []
    for speaker in ("ada", "bob"):
        for mood in MOODS:
            for take, seconds in enumerate((1, 1.6, 2, 2.9, 4)):
                text = f"{speaker} is {mood} in take number {take}"
                row = {"audio": audio(seconds, (len(rows) + 1) / 1000), "text": text, "language": "en"}
                rows.append(row | {"emotion": mood, "speaker_id": speaker})
    rows.append(rows[0] | {"text": "too few words"})
    rows.append(rows[0] | {"text": "dies ist nun wirklich nicht englisch", "language": "de"})
    rows.append(rows[2])  # a text that is there twice
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips.parquet")
    return tmp_path


def run(folder, *options, out="out"):
    script.main(["--texts", str(folder / "clips.parquet"), "--language", "en", "--out", str(folder / out), *options])
    return read_items(folder / out / "items.jsonl")


def number(source):
    return round(float(np.abs(read_waveform(source, "clip")).max()) * 1000)


def test_prompts_are_of_the_same_speaker_and_mood(clips):
    items = run(clips, "--count", "20")
    rows = pq.read_table(clips / "clips.parquet").to_pylist()
    assert len({item.text for item in items}) == len(items) == 20
    for item in items:
        reference, prompt = rows[number(item.reference) - 1], rows[number(item.prompt) - 1]
        assert reference["text"] == item.text and prompt["text"] == item.prompt_text != item.text
        for row in (reference, prompt):
            assert (row["speaker_id"], row["emotion"]) == (item.speaker, item.emotion)
        assert 1.5 <= read_waveform(item.prompt, "clip").size / RATE <= 3
    # Three of each five are long enough; every one is used before one is used again.
    used = [number(item.prompt) for item in items]
    assert len(set(used)) == 12 and max(used.count(n) for n in used) <= 3


def test_a_longer_list_begins_with_the_shorter_and_a_run_repeats(clips):
    short, long, again = (run(clips, "--count", count, out=out) for count, out in (("4", "a"), ("9", "b"), ("9", "c")))
    assert [item.text for item in short] == [item.text for item in long[:4]]
    for folder in ("a", "b"):
        for path in (clips / folder).glob("*.wav"):
            assert path.read_bytes() == (clips / "c" / path.name).read_bytes()
    other = run(clips, "--count", "9", "--seed", "1", out="d")
    assert [item.text for item in other] != [item.text for item in again]


def test_each_text_in_each_mood(clips):
    items = run(clips, "--count", "6", "--each-mood")
    assert [item.id for item in items[:2]] == ["000-angry", "000-sad"] and len(items) == 12
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert (first.text, first.speaker) == (second.text, second.speaker) and first.reference is None
        assert (first.emotion, second.emotion) == MOODS
        for item in (first, second):
            assert item.prompt_text.startswith(f"{item.speaker} is {item.emotion}") and item.prompt_text != item.text


def test_prompts_of_another_set(clips):
    rows = [{"audio": audio(seconds, seconds / 10), "speaker_id": "eve"} for seconds in (1, 2, 2.5, 20)]
    pq.write_table(pa.Table.from_pylist(rows), clips / "others.parquet")
    script.main(
        ["--texts", str(clips / "clips.parquet"), "--prompts", str(clips / "others.parquet"), "--count", "5"]
        + ["--out", str(clips / "out")]
    )
    items = read_items(clips / "out/items.jsonl")
    assert sorted(number(item.prompt) for item in items[:2]) == [200, 250] and len(items) == 5
    assert {(item.speaker, item.prompt_text, item.emotion, item.reference) for item in items} == {
        ("eve", None, None, None)
    }
    assert set(json.loads((clips / "out/items.jsonl").read_text().splitlines()[0])) >= {"id", "text", "prompt"}


def test_lists_that_share_nothing(clips):
    first = run(clips, "--count", "4", out="a")
    second = run(clips, "--count", "4", "--exclude", str(clips / "a/items.jsonl"), out="b")
    said = [{text for item in items for text in (item.text, item.prompt_text)} for items in (first, second)]
    assert len(said[0]) >= 4 and len(said[1]) >= 4 and not said[0] & said[1]


def test_prompts_of_another_set_are_in_the_texts_language(clips):
    """Unless one of the sets does not tell; words that are empty or not given are none, whatever the spelling."""
    rows = [
        {"audio": audio(2, 0.2), "language": "de", "text": "Hallo"},
        {"audio": audio(2, 0.3), "language": "en", "text": " "},
        {"audio": audio(2, 0.4), "language": "en", "text": "Bob is SAD, in take number 3!"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), clips / "others.parquet")
    options = ["--prompts", str(clips / "others.parquet"), "--count", "20"]
    items = run(clips, *options)
    assert {(number(item.prompt), item.prompt_text) for item in items} == {(300, None), (400, rows[2]["text"])}
    (same,) = [item for item in items if item.text == "bob is sad in take number 3"]
    assert number(same.prompt) == 300
    pq.write_table(pa.Table.from_pylist([{"audio": audio(2, 0.2)}]), clips / "others.parquet")
    with pytest.raises(ValueError, match="others.parquet has no column `language`"):
        run(clips, *options)


def test_clips_without_a_speaker_or_a_mood_are_left_out(clips):
    rows = pq.read_table(clips / "clips.parquet").to_pylist()
    rows = [row | ({"speaker_id": None} if row["speaker_id"] == "bob" else {}) for row in rows]
    rows[0] |= {"emotion": None}
    pq.write_table(pa.Table.from_pylist(rows), clips / "clips.parquet")
    assert {item.speaker for item in run(clips, "--count", "9")} == {"ada"}
    assert len(run(clips, "--count", "9", "--each-mood", out="moods")) == 18


def test_what_cannot_be(clips):
    with pytest.raises(ValueError, match="`--count`: only 20 of 30"):
        run(clips, "--count", "30")
    with pytest.raises(ValueError, match="`--count`: only 0 of 1"):
        run(clips, "--count", "1", "--seconds", "20", "30")
    with pytest.raises(ValueError, match="there is no file"):
        script.main(["--texts", str(clips / "none*.parquet"), "--out", str(clips / "out")])
    pq.write_table(pa.Table.from_pylist([{"audio": audio(2, 0.1)}]), clips / "clips.parquet")
    with pytest.raises(ValueError, match="has no column `text`"):
        run(clips)
    with pytest.raises(SystemExit):
        run(clips, "--each-mood", "--prompts", "x.parquet")
