"""
`affectcodec evaluate codec`: reconstruction, Table 2 of arXiv 2605.11098 on any data set and for any codecs.

    affectcodec evaluate codec --config table2.yaml --out runs/table2

A configuration names the data, the systems, and for each group of columns what stands behind it:

    data: data/open-prompts/test-00000-of-00001.parquet
    columns: {text: text, language: language, speaker: speaker_id}     # also `emotion`
    models: {affectcodec-mini: null, encodec: {source: facebook/encodec_24khz, encode: {bandwidth: 6.0}}}
    baselines: [opus-6, opus-12]
    emotion: {backend: egemaps}
    words: {backend: transcriber, source: openai/whisper-large-v3}

and may set any other field of [`CodecEvaluation`]. Rows are kept in `OUT/rows`, a file for each group: a run goes on where it
was stopped, and a group can be added later. `OUT/table.md`, `table.json`, `table.png` and `clips.jsonl` (every number of
every clip) are written anew.
"""

import argparse
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.settings import build_dataclass, read_yaml

from . import backends
from .clips import count_clips, read_clips, read_labels, resolve_data
from .codec_facts import add_codec_facts
from .codec_table import METRICS, protocol
from .columns.emotion import EmotionColumns, RecallColumns
from .columns.rating import RatingColumns
from .columns.signal import Metric, MetricColumns
from .columns.speaker import SpeakerColumns
from .columns.token import TokenColumns
from .columns.word import WordColumns
from .measuring import ColumnGroup, measure_all, run_codec
from .model_index import write_model_index
from .picture import picture
from .rows import dump
from .settings import call_backend, config_path
from .systems import load_systems
from .tables import per_clip, tabulate, worst_failures, write_table


# DistillMOS is a column of its own here.
SIGNAL = {"pesq_nb": Metric(partial(pesq, mode="nb"), "PESQ-NB ↑", 2)} | {
    name: metric for name, metric in METRICS.items() if name != "distillmos"
}
LABELS = ("text", "language", "emotion", "speaker")


@dataclass
class CodecEvaluation:
    """
    One table. A group of columns that is not set is not measured, but for the signal's, which always is.

    Args:
        data (`str`): Parquet file with a column `audio` of bytes, or `hf://datasets/ORG/NAME/FILE`.
        models (`dict`), baselines (`list[str]`): See [`~.systems.load_systems`].
        columns (`dict[str, str]`): Which columns of the data are `text`, `language`, `emotion` and `speaker`.
        language (`str`, *optional*): Of all clips, where the data has no column of it.
        words, emotion, recall, prosody, speaker (`dict`, *optional*): `backend` and its arguments, see [`~.backends`].
            `recall` also has `labels`, which maps the data's emotions to the recogniser's (`null`: it has no such class),
            and `candidates`, the classes that may be predicted.
        ratings (`list[dict]`): Predictors of opinion scores, each with `backend` and its arguments.
        tokens (`bool`): Consistency and usage of the codes.
        compare_to (`str`, *optional*): System that the others are tested against.
        dataset (`dict[str, str]`): `type`, `name` and `split` of the data, as `model-index` spells them.
        limit (`int`, *optional*): First clips of the data to use.
        seed (`int`): Of bootstrap and permutations.
        device (`str`): Where models run.
        max_failures (`int`): Clips that a cell may miss before the exit status is 1.
    """

    data: str
    models: dict = field(default_factory=dict)
    baselines: list = field(default_factory=list)
    columns: dict = field(default_factory=dict)
    language: str | None = None
    words: dict | None = None
    emotion: dict | None = None
    recall: dict | None = None
    prosody: dict | None = None
    speaker: dict | None = None
    ratings: list = field(default_factory=list)
    tokens: bool = False
    compare_to: str | None = None
    dataset: dict = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    max_failures: int = 0

    def __post_init__(self):
        # A file that starts from another takes a column away by null.
        self.columns = {ours: theirs for ours, theirs in self.columns.items() if theirs is not None}
        unknown = sorted(self.columns.keys() - set(LABELS))
        if unknown:
            raise ValueError(f"`columns`: unknown key {unknown[0]!r}; known keys are {list(LABELS)}")
        for section in ("recall", "words"):
            settings = getattr(self, section)
            if section == "recall" and settings is not None and "emotion" not in self.columns:
                raise ValueError("`recall` needs `columns.emotion`")
            if (
                section == "words"
                and settings is not None
                and self.language is None
                and "language" not in self.columns
            ):
                raise ValueError("`words` needs `columns.language`, or `language` for all clips")


def emotion_words(labels: list, mapping: dict | None) -> list:
    """The data's emotions in the recogniser's words; one that the mapping lacks stays as it is."""
    return [None if label is None else (mapping or {}).get(label, label) for label in labels]


def build_model_groups(settings, labels: dict[str, list], num_clips: int, references: dict) -> list[ColumnGroup]:
    """
    The groups with a backend of their own, loaded.

    Args:
        settings: With `words`, `emotion`, `recall`, `speaker`, `ratings`, `language` and `device`, as in
            [`CodecEvaluation`].
        labels (`dict[str, list]`): Of the clips: `text`, `language`, `emotion`, `speaker`, those that there are.
        num_clips (`int`): How many clips.
        references (`dict[str, str | None]`): For `words`, `emotion` and `speaker` the system to compare with.
    """
    groups: list[ColumnGroup] = []
    device, speakers = settings.device, labels.get("speaker")
    emotions = labels.get("emotion", [None] * num_clips)
    if settings.emotion is not None:
        backend = call_backend("emotion", backends.EMOTION, settings.emotion, device=device)
        groups.append(
            EmotionColumns(backend.call, backend.title, backend.protocol, emotions, speakers, references["emotion"])
        )
    if settings.recall is not None:
        own = {key: value for key, value in settings.recall.items() if key not in ("labels", "candidates")}
        backend = call_backend("recall", backends.RECALL, own, device=device)
        words = emotion_words(emotions, settings.recall.get("labels"))
        groups.append(
            RecallColumns(
                backend.call,
                backend.class_names,
                backend.title,
                backend.protocol,
                words,
                settings.recall.get("candidates"),
                references["emotion"],
            )
        )
    if settings.words is not None:
        backend = call_backend("words", backends.WORDS, settings.words, device=device)
        languages = labels.get("language", [settings.language] * num_clips)
        groups.append(
            WordColumns(
                backend.call, backend.title, backend.protocol, labels.get("text"), languages, references["words"]
            )
        )
    if settings.speaker is not None:
        backend = call_backend("speaker", backends.SPEAKER, settings.speaker, device=device)
        groups.append(SpeakerColumns(backend.call, backend.title, backend.protocol, speakers, references["speaker"]))
    for entry in settings.ratings:
        backend = call_backend("ratings", backends.RATINGS, entry, device=device)
        name = entry["backend"]
        groups.append(RatingColumns(backend.call, backends.RATING_LABELS[name], name, backend.title, backend.protocol))
    return groups


def prosody_group(settings: dict, device: str) -> MetricColumns:
    """The prosody similarity of a pair of clips, which need not have one length."""
    backend = call_backend("prosody", backends.PROSODY, settings, device=device)
    metric = Metric(backend.call, "Pros-SIM ↑", 3, aligned=False)
    title = f"Prosody similarity ({backend.title})"
    return MetricColumns({"pros_sim": metric}, backend.protocol, "prosody", title, in_workers=False)


def evaluate(settings: CodecEvaluation, out: str | Path, workers: int = 0) -> dict:
    """
    Measures what is missing and writes the table.

    Args:
        settings ([`CodecEvaluation`]): What to measure.
        out (`str` or `Path`): Folder of rows and results.
        workers (`int`, *optional*, defaults to 0): Processes for the signal's columns beside this one.

    Returns:
        `dict`: The table, see [`~.tables.tabulate`].

    Raises:
        ValueError: The settings do not fit the data, or rows on disk are of another protocol.
    """
    out = Path(out)
    data = resolve_data(settings.data)
    num_clips = count_clips(data, settings.limit)
    labels = read_labels(data, settings.columns, num_clips)
    systems = load_systems(settings.models, settings.baselines, settings.device)
    common = protocol(data)
    groups: list[ColumnGroup] = [MetricColumns(SIGNAL, {"pesq_modes": "nb and wb"})]
    if settings.prosody is not None:
        groups.append(prosody_group(settings.prosody, settings.device))
    references = {"words": "original", "emotion": "original", "speaker": "original"}
    groups += build_model_groups(settings, labels, num_clips, references)
    if settings.tokens:
        groups.append(TokenColumns())

    files = {group.name: out / "rows" / f"{group.name}.jsonl" for group in groups}
    rows = measure_all(
        systems, lambda: read_clips(data, num_clips), num_clips, run_codec, groups, files, common, workers
    )
    backends_used = {group.name: group.protocol for group in groups if group.protocol}
    table = tabulate(systems, groups, rows, {**common, **backends_used}, settings.compare_to, settings.seed)
    add_codec_facts(table, rows["signal"])
    write_table(table, out)
    picture(table).savefig(out / "table.png")
    with open(out / "clips.jsonl", "w", encoding="utf-8") as file:
        file.writelines(dump(row) + "\n" for row in per_clip(systems, groups, rows, settings.seed))
    return table


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="affectcodec evaluate codec", description="Reconstruction: systems x clips x columns."
    )
    parser.add_argument("--config", required=True, help="YAML file, or the name of one that comes with the package")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows and results")
    parser.add_argument("--data-root", default="data", help="replaces {data_root} in `data` (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the file")
    parser.add_argument("--limit", type=int, help="use the first clips only")
    parser.add_argument("--workers", type=int, default=0, help="processes for the signal's columns beside this one")
    parser.add_argument("--max-failures", type=int, help="clips that a cell may miss (default: the file's, or 0)")
    parser.add_argument("--card", type=Path, help="README.md of a model, whose model-index gets the results")
    parser.add_argument("--card-system", help="the system of the table that the card is of")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit status is 1 where a cell of the table misses more clips than allowed."""
    options = build_parser().parse_args(arguments)
    values = read_yaml(config_path(options.config), options.set)
    for name in ("limit", "max_failures"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    settings = build_dataclass(CodecEvaluation, values, "`config`")
    settings.data = settings.data.replace("{data_root}", options.data_root)
    if (options.card is None) != (options.card_system is None):
        raise ValueError("`--card` and `--card-system` go together")
    table = evaluate(settings, options.out, options.workers)
    if options.card is not None:
        write_model_index(options.card, table, options.card_system, settings.dataset)
    sys.stdout.write((options.out / "table.md").read_text(encoding="utf-8"))
    failures = worst_failures(table)
    if failures > settings.max_failures:
        sys.stderr.write(f"{failures} clips failed in one cell, --max-failures is {settings.max_failures}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
