"""
Makes a list of items for `speak_items`, `affectcodec evaluate tts` and `mood_f0` from sets of transcribed clips:

    texts="data/synthetic-moods/validation-*.parquet"
    python training/build_speak_items.py --texts "$texts" --count 40 --out runs/items
    python training/build_speak_items.py --texts "$texts" --count 20 --exclude runs/items/items.jsonl --out runs/items-tuning
    python training/build_speak_items.py --texts "$texts" --count 15 --each-mood --out runs/items-moods
    python training/build_speak_items.py --texts "$texts" --count 40 --prompts "data/open-prompts/test-*.parquet" --language en \\
        --out runs/items-natural

An item's text is a clip's, its prompt another clip of this clip's speaker and mood (`speaker_id`, `emotion`), so that the clip
is a reference; with `--each-mood` a text has one item for each mood, with prompts of one speaker. With `--prompts` the prompts
are another set's, in the text's language where both sets tell it, dealt out in turn, and there are no references. Prompts
last `--seconds` 1.5 to 3, texts have five words or more, and no item's prompt says its text as far as its words are known. What
is drawn depends on `--seed` and the clips alone; the first texts of a list are those of a longer one. So lists of one set
share texts, unless `--exclude` names the lists whose texts and prompts are to be left out: a list to choose settings on must
not share them with the one that is reported. Writes `items.jsonl` and the recordings.
"""

import argparse
import glob
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

from hf_affectcodec.benchmarks.tts_items import read_items
from hf_affectcodec.data.clips import Clips, load_clips


MIN_WORDS = 5
COLUMNS = ("text", "language", "emotion", "speaker_id")


def load(source: str, needed: tuple[str, ...], language: str | None) -> tuple[Clips, list[dict]]:
    """
    The clips of a set, and of each `row`, `seconds` and those of [`COLUMNS`] that the set has; without those that lack what is
    `needed`, of one language if given.
    """
    files = sorted(glob.glob(source))
    if not files:
        raise ValueError(f"there is no file {source!r}")
    names = pq.read_schema(files[0]).names
    needed = needed if language is None else (*needed, "language")
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"{source} has no column `{missing[0]}`")
    present = {name: name for name in COLUMNS if name in names}
    clips = load_clips(files, column_map={"audio": "audio", **present})
    rows = []
    for place, waveform in enumerate(clips.waveforms):
        labels = {name: values[place] for name, values in clips.columns.items()}
        labels = {name: value for name, value in labels.items() if value is not None and value.strip()}
        if all(name in labels for name in needed) and language in (None, labels.get("language")):
            rows.append({"row": place, "seconds": len(waveform) / clips.sampling_rate} | labels)
    return clips, rows


def words(text: str) -> str:
    """What two spellings of the same words have in common."""
    return " ".join(re.sub(r"[^\w']+", " ", text.casefold()).split())


def draw_texts(rows: list[dict], generator: np.random.Generator) -> list[dict]:
    """Rows in an order that is drawn, without those of few words and without a text's second clip."""
    found = {}
    for place in generator.permutation(len(rows)):
        row = rows[place]
        if len(row["text"].split()) >= MIN_WORDS:
            found.setdefault(words(row["text"]), row)
    return list(found.values())


class Prompts:
    """
    Prompts of each group, in an order that is drawn, handed out in turn.

    Args:
        rows (`list[dict]`): Of [`load`].
        group (`tuple[str, ...]`): Columns that a group has in common.
        seconds (`tuple[float, float]`): Least and greatest length.
        generator (`np.random.Generator`): Draws.
    """

    def __init__(self, rows, group, seconds, generator):
        self.group = group
        self.rows = defaultdict(list)
        for place in generator.permutation(len(rows)):
            if seconds[0] <= rows[place]["seconds"] <= seconds[1]:
                self.rows[tuple(rows[place].get(name) for name in group)].append(rows[place])

    def __call__(self, group: tuple, text: str) -> dict | None:
        """The next prompt of a group that does not say `text`, or `None`."""
        waiting = self.rows.get(group, [])
        for place, row in enumerate(waiting):
            if words(row.get("text", "")) != words(text):
                # To the end of the queue: all are used before one is used again.
                waiting.append(waiting.pop(place))
                return row
        return None


def choose(texts: list[dict], prompts: Prompts, count: int, moods: list[str] | None) -> list[list[tuple[dict, dict]]]:
    """The first `count` texts that have prompts, each as its pairs (text, prompt)."""
    chosen = []
    for row in texts:
        if len(chosen) == count:
            break
        own = tuple(row.get(name) for name in prompts.group)
        groups = [own] if moods is None else [(own[0], mood) for mood in moods]
        if all(prompts.rows.get(group) for group in groups):
            pairs = [(row, prompts(group, row["text"])) for group in groups]
            if all(prompt is not None for _, prompt in pairs):
                chosen.append(pairs)
    if len(chosen) < count:
        raise ValueError(
            f"`--count`: only {len(chosen)} of {count} texts have prompts; ask for fewer or widen `--seconds`"
        )
    return chosen


def write(folder: Path, name: str, clips: Clips, row: dict) -> str:
    soundfile.write(folder / name, clips.waveforms[row["row"]], clips.sampling_rate, subtype="PCM_16")
    return name


def build(options: argparse.Namespace) -> int:
    """Writes the items; how many."""
    generators = [np.random.default_rng([options.seed, which]) for which in (0, 1)]
    own = ("speaker_id", "emotion") if options.prompts is None else ()
    clips, rows = load(options.texts, ("text", *own), options.language)
    prompt_clips, prompt_rows, group = clips, rows, own
    if options.prompts is not None:
        prompt_clips, prompt_rows = load(options.prompts, (), options.language)
        told = [any("language" in row for row in part) for part in (rows, prompt_rows)]
        group = ("language",) if all(told) else ()
    known = {
        words(text)
        for path in options.exclude
        for item in read_items(path)
        for text in (item.text, item.prompt_text)
        if text
    }
    rows = [row for row in rows if words(row["text"]) not in known]
    if options.prompts is None:
        prompt_rows = rows
    prompts = Prompts(prompt_rows, group, tuple(options.seconds), generators[1])
    moods = sorted({row["emotion"] for row in rows}) if options.each_mood else None
    chosen = choose(draw_texts(rows, generators[0]), prompts, options.count, moods)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, pairs in enumerate(chosen):
        for text, prompt in pairs:
            identity = f"{number:03d}" if moods is None else f"{number:03d}-{prompt['emotion']}"
            item = {"id": identity, "text": text["text"]}
            item["prompt"] = write(options.out, f"{identity}-prompt.wav", prompt_clips, prompt)
            if own and moods is None:
                item["reference"] = write(options.out, f"{identity}-reference.wav", clips, text)
            item["prompt_text"], item["speaker"] = prompt.get("text"), prompt.get("speaker_id")
            item["emotion"], item["language"] = prompt.get("emotion"), text.get("language")
            lines.append(json.dumps({name: value for name, value in item.items() if value is not None}) + "\n")
    (options.out / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", required=True, help="Parquet files whose texts are to be said")
    parser.add_argument("--prompts", help="Parquet files of the prompts, where these are another set's")
    parser.add_argument("--count", type=int, default=40, help="texts")
    parser.add_argument("--seconds", type=float, nargs=2, default=(1.5, 3.0), metavar=("LEAST", "MOST"))
    parser.add_argument("--each-mood", action="store_true", help="each text after a prompt of each mood")
    parser.add_argument("--language", help="of texts and prompts; default: all")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="ITEMS",
        help="lists whose texts and prompts are left out",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    if options.each_mood and options.prompts:
        parser.error("--each-mood takes its prompts from --texts")
    print(f"{build(options)} items in {options.out / 'items.jsonl'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"build_speak_items: error: {' '.join(str(error).split())}")
