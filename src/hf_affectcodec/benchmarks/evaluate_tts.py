"""
`affectcodec evaluate tts`: zero-shot speech synthesis, Table 4 of arXiv 2605.11098, on clips that any systems generated.

    affectcodec evaluate tts --config table4.yaml --out runs/table4

A configuration names the items, the systems and what stands behind each group of columns:

    items: items.jsonl                       # id, text, prompt, reference, language, emotion, speaker; see `tts_items`
    systems: {ours: runs/wavs, theirs: theirs.parquet}
    words: {backend: transcriber, source: openai/whisper-large-v3}
    speaker: {backend: xvector}

and may set any other field of [`SpeechEvaluation`]. WER and WIL are against the text, SIM-O is the speaker similarity to the
prompt, Emo-SIM and Pros-SIM are to the reference recording. The references themselves are the table's first row. Rows are
kept, and results written, as by [`~.evaluate_codec`].
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_affectcodec.settings import build_dataclass, read_yaml

from .codecs import SAMPLING_RATE
from .evaluate_codec import build_model_groups, prosody_group
from .measuring import ColumnGroup, measure_all
from .picture import picture
from .rows import dump
from .settings import config_path
from .tables import per_clip, tabulate, worst_failures, write_table
from .tts_items import Generated, Item, Recordings, SpeechSystem, read_items, speak


REFERENCES = ("reference", "prompt")


@dataclass
class SpeechEvaluation:
    """
    One table. A group of columns that is not set is not measured.

    Args:
        items (`str`): JSONL or Parquet file, see [`~.tts_items.read_items`].
        systems (`dict[str, str]`): Name in the table to a folder, JSONL or Parquet file of generated clips, see
            [`~.tts_items.Generated`].
        language (`str`, *optional*): Of all items, where they do not say.
        emotion_reference (`str`): What Emo-SIM is measured to: `"reference"`, or `"prompt"` where there is no recording
            of the text.
        words, emotion, recall, prosody, speaker, ratings: As in [`~.evaluate_codec.CodecEvaluation`].
        compare_to, limit, seed, device, max_failures: Likewise.
    """

    items: str
    systems: dict = field(default_factory=dict)
    language: str | None = None
    emotion_reference: str = "reference"
    words: dict | None = None
    emotion: dict | None = None
    recall: dict | None = None
    prosody: dict | None = None
    speaker: dict | None = None
    ratings: list = field(default_factory=list)
    compare_to: str | None = None
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    max_failures: int = 0

    def __post_init__(self):
        if self.emotion_reference not in REFERENCES:
            raise ValueError(f"`emotion_reference` must be one of {list(REFERENCES)}, got {self.emotion_reference!r}")
        taken = sorted(set(REFERENCES) & self.systems.keys())
        if taken:
            raise ValueError(f"`systems`: the name {taken[0]!r} is taken by the items' own recordings")


def protocol(items: Sequence[Item], name: str) -> dict:
    """What every row has in common: the items, by their texts and recordings."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.id}\0{item.text}\0{item.language}\0".encode())
        for audio in (item.prompt, item.reference):
            content = audio.read_bytes() if isinstance(audio, Path) and audio.is_file() else audio
            digest.update(hashlib.sha256(content if isinstance(content, bytes) else b"").digest())
    return {
        "data": name,
        "data_sha256": digest.hexdigest(),
        "sampling_rate": SAMPLING_RATE,
        "resampler": "torchaudio sinc_interp_hann, lowpass_filter_width 6, rolloff 0.99",
    }


def _labels(items: Sequence[Item]) -> dict[str, list]:
    """Columns of the items, those that some item has."""
    columns = {name: [getattr(item, name) for item in items] for name in ("text", "language", "emotion", "speaker")}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def _check(settings: SpeechEvaluation, items: Sequence[Item], labels: dict):
    """What the groups need of the items; named before any model is loaded."""
    wanting = {
        "speaker": ("prompt", settings.speaker),
        "prosody": ("reference", settings.prosody),
        "emotion": (settings.emotion_reference, settings.emotion),
    }
    for group, (audio, wanted) in wanting.items():
        if wanted is not None and all(getattr(item, audio) is None for item in items):
            raise ValueError(f"`{group}` needs items with a `{audio}`")
    if settings.recall is not None and "emotion" not in labels:
        raise ValueError("`recall` needs items with an `emotion`")
    if settings.words is not None and settings.language is None and None in labels.get("language", [None]):
        raise ValueError("`words` needs a `language` of each item, or `language` for all")


def evaluate(settings: SpeechEvaluation, out: str | Path, systems: Sequence[SpeechSystem] = ()) -> dict:
    """
    Measures what is missing and writes the table.

    Args:
        settings ([`SpeechEvaluation`]): What to measure.
        out (`str` or `Path`): Folder of rows and results.
        systems (sequence of [`~.tts_items.SpeechSystem`]): Systems that generate while they are measured, beside those of
            the settings.

    Returns:
        `dict`: The table, see [`~.tables.tabulate`].

    Raises:
        ValueError: The settings do not fit the items, or rows on disk are of another protocol.
    """
    out = Path(out)
    items = read_items(settings.items, settings.limit)
    labels = _labels(items)
    if "language" in labels and settings.language is not None:
        labels["language"] = [language or settings.language for language in labels["language"]]
    _check(settings, items, labels)
    has_references = any(item.reference is not None for item in items)
    named = [Recordings("reference", items)] if has_references else []
    named += [*(Generated(name, source) for name, source in settings.systems.items()), *systems]
    if not [system for system in named if system.name != "reference"]:
        raise ValueError("`systems` is empty")
    sources = {"words": None, "emotion": settings.emotion_reference, "speaker": "prompt"}
    groups: list[ColumnGroup] = build_model_groups(settings, labels, len(items), sources)
    if settings.prosody is not None:
        groups.append(prosody_group(settings.prosody, settings.device))
    if not groups:
        raise ValueError("`config` names no group of columns")

    files = {group.name: out / "rows" / f"{group.name}.jsonl" for group in groups}
    common = protocol(items, Path(settings.items).name)
    rows = measure_all(named, lambda: iter(items), len(items), speak, groups, files, common)
    # Prompts say another text: they are measured for what others are compared with, and have no row in the table.
    against_prompts = [group for group in groups if group.reference == "prompt"]
    references = {}
    if against_prompts:
        prompts = [Recordings("prompt", items)]
        measured = measure_all(prompts, lambda: iter(items), len(items), speak, against_prompts, files, common)
        references = {name: of_prompts[0] for name, of_prompts in measured.items()}
    used = {group.name: group.protocol for group in groups}
    table = tabulate(named, groups, rows, {**common, **used}, settings.compare_to, settings.seed, references)
    write_table(table, out)
    picture(table).savefig(out / "table.png")
    with open(out / "clips.jsonl", "w", encoding="utf-8") as file:
        file.writelines(dump(row) + "\n" for row in per_clip(named, groups, rows, settings.seed, references))
    return table


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectcodec evaluate tts", description="Zero-shot speech synthesis: systems x items x columns."
    )
    parser.add_argument("--config", required=True, help="YAML file, or the name of one that comes with the package")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows and results")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the file")
    parser.add_argument("--limit", type=int, help="use the first items only")
    parser.add_argument("--max-failures", type=int, help="clips that a cell may miss (default: the file's, or 0)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit status is 1 where a cell of the table misses more clips than allowed."""
    options = build_parser().parse_args(arguments)
    values = read_yaml(config_path(options.config), options.set)
    for name in ("limit", "max_failures"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    settings = build_dataclass(SpeechEvaluation, values, "`config`")
    table = evaluate(settings, options.out)
    sys.stdout.write((options.out / "table.md").read_text(encoding="utf-8"))
    failures = worst_failures(table)
    if failures > settings.max_failures:
        sys.stderr.write(f"{failures} clips failed in one cell, --max-failures is {settings.max_failures}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
