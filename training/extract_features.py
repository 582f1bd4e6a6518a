"""
Computes the teachers' features of a data set once, so that training only reads them.

    accelerate launch training/extract_features.py --source data/open-prompts --split train \\
        --teacher emotion=egemaps --teacher semantic=whisper,source=openai/whisper-base \\
        --teacher text=text,source=google-bert/bert-base-uncased --transcripts text --output-dir features/open-prompts

`--teacher NAME=KIND[,key=value ...]` may be given several times. NAME becomes the column; KIND and its keys (those of the
class's `from_pretrained`, or of the class where there is nothing to load):

    clap        source, revision                              (laion/clap-htsat-unfused)
    hubert      source, layer, revision                       (facebook/hubert-base-ls960)
    whisper     source, layer, revision                       (openai/whisper-base)
    text        source, recognizer, revision, recognizer_revision
                (google-bert/bert-base-uncased on transcripts of facebook/wav2vec2-base-960h, or of --transcripts COLUMN)
    frames      source, frame_rate, layer, window_seconds, revision, trust_remote_code   (any encoder of the Hub)
    egemaps     -
    mfcc        num_coefficients, num_mel_bins

The result is a data set, `load_dataset("parquet", data_files="OUTPUT/*.parquet")`: one row a clip with `name`, `num_samples`
(at 16 kHz), for each teacher a list of vectors of float16, and for a text teacher `NAME_transcript`. `manifest.json`, written
last, holds what produced it: teachers with the SHA-256 of their weights, versions of the libraries, SHA-256 of the audio of
each file, mean and standard deviation of each channel. `hf_affectcodec.data.features` reads it.

A file appears whole or not at all. Run the command again and it goes on with the files that are missing; on several ranks
each takes every n-th file, and whoever finishes the last one writes the manifest: ranks need not wait for each other. On
machines without accelerator launch several with `torchrun --nproc_per_node N`.
"""

import argparse
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from accelerate import PartialState
from tqdm.auto import tqdm

from hf_affectcodec.audio import AudioFileError, load_audio
from hf_affectcodec.teachers.alignment import HOP_LENGTH, SAMPLING_RATE
from hf_affectcodec.teachers.clap import ClapTeacher
from hf_affectcodec.teachers.frames import FrameTeacher
from hf_affectcodec.teachers.hubert import HubertTeacher
from hf_affectcodec.teachers.mfcc import MfccTeacher
from hf_affectcodec.teachers.text import TextTeacher
from hf_affectcodec.teachers.whisper import WhisperTeacher


METADATA_KEY = b"hf_affectcodec"
LIBRARIES = ("hf-affectcodec", "torch", "torchaudio", "transformers", "datasets", "numpy", "pyarrow")
LARGEST = float(np.finfo(np.float16).max)


def load_egemaps():
    from hf_affectcodec.teachers.egemaps import EgemapsTeacher  # its package is an extra

    return EgemapsTeacher()


ENCODERS = {
    "clap": ClapTeacher.from_pretrained,
    "hubert": HubertTeacher.from_pretrained,
    "whisper": WhisperTeacher.from_pretrained,
    "text": TextTeacher.from_pretrained,
    "frames": FrameTeacher.from_pretrained,
}
SIGNAL_TEACHERS = {"egemaps": load_egemaps, "mfcc": MfccTeacher}


def load_teacher(kind: str, device: "str | torch.device" = "cpu", **arguments):
    """
    A teacher by its kind on the command line.

    Raises:
        ValueError: The kind is unknown, or it does not take an argument.
    """
    kinds = ENCODERS | SIGNAL_TEACHERS
    if kind not in kinds:
        raise ValueError(f"`--teacher`: there is no {kind!r}; kinds are {', '.join(kinds)}")
    if kind in ENCODERS:
        arguments["device"] = device
    try:
        inspect.signature(kinds[kind]).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"`--teacher`: {kind}: {error}") from error
    return kinds[kind](**arguments)


def parse_teacher(text: str) -> tuple[str, str, dict]:
    """`"semantic=whisper,source=openai/whisper-base,layer=4"` to (name, kind, keyword arguments)."""
    name, equals, rest = text.partition("=")
    kind, *pairs = rest.split(",")
    if not (equals and name.isidentifier() and kind and all("=" in pair for pair in pairs)):
        raise ValueError(f"`--teacher` takes NAME=KIND[,key=value ...], got {text!r}")
    return name, kind, {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}


class AudioRows:
    """
    The rows of a `datasets` audio set, decoded one by one.

    Args:
        source: Hub id, folder, or Parquet files (a name that ends in `.parquet`, `*` allowed).
        split: Split, in `datasets` syntax.
        audio_column: Column of the audio.
        transcript_column: Column of the transcripts, if any.
        config_name: Configuration of a set that has several.

    Raises:
        ValueError: No such column, or two clips of the same name.
    """

    def __init__(
        self,
        source: str,
        split: str,
        audio_column: str = "audio",
        transcript_column: str | None = None,
        config_name: str | None = None,
    ):
        if source.endswith(".parquet"):
            rows = datasets.load_dataset("parquet", config_name, data_files={split.split("[")[0]: source}, split=split)
        else:
            rows = datasets.load_dataset(source, config_name, split=split)
        columns = [audio_column] if transcript_column is None else [audio_column, transcript_column]
        missing = sorted(set(columns) - set(rows.column_names))
        if missing:
            raise ValueError(
                f"`source` = {source!r}, split {split!r} has no column {missing[0]!r}: {rows.column_names}"
            )
        # our own loader decodes: it needs no torchcodec and says which file is bad
        self.rows = rows.select_columns(columns).cast_column(audio_column, datasets.Audio(decode=False))
        self.audio_column, self.transcript_column = audio_column, transcript_column
        self.names = []
        for table in self.rows.with_format("arrow").iter(1000):
            paths = pc.struct_field(table[audio_column], "path").to_pylist()
            self.names += [path or f"row {len(self.names) + index}" for index, path in enumerate(paths)]
        seen = set()
        for name in self.names:
            if name in seen:
                raise ValueError(f"`source` = {source!r}, split {split!r} has two clips named {name!r}")
            seen.add(name)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, first: int, last: int) -> Iterator[tuple[str, torch.Tensor, str]]:
        """(name, waveform [T] at 16 kHz, transcript) of rows `first` to `last`; a missing transcript is empty."""
        for index in range(first, last):
            row, name = self.rows[index], self.names[index]
            audio = row[self.audio_column]
            if audio is None or (audio["bytes"] is None and audio["path"] is None):
                raise AudioFileError(f"{name}: no audio")
            content = audio["path"] if audio["bytes"] is None else audio["bytes"]
            waveform = load_audio(content, SAMPLING_RATE, name=name)[0]
            yield name, waveform, (row[self.transcript_column] or "" if self.transcript_column else "")


def extract(
    rows: AudioRows,
    teachers: dict,
    output_dir: "str | os.PathLike",
    settings: dict,
    shard_clips: int = 256,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> dict | None:
    """
    Writes this rank's missing files of features, and the manifest if all ranks' are there.

    Args:
        rows ([`AudioRows`]): The data set.
        teachers (`dict`): Column to teacher.
        output_dir (`str` or `os.PathLike`): Folder to write to.
        settings (`dict`): What else the result depends on (source, split, columns), fit for JSON.
        shard_clips (`int`, *optional*, defaults to 256): Clips a file.
        rank, world_size (`int`): This process and how many there are.
        progress (`bool`, *optional*, defaults to `True`): Shows a bar.

    Returns:
        `dict` or `None`: The manifest, or `None` while files of other ranks are missing.

    Raises:
        ValueError: The folder holds features of other settings, a value does not fit into float16, or there are no rows.
    """
    if not len(rows):
        raise ValueError("`rows` is empty")
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    settings = {
        **settings,
        "clips": len(rows),
        "names_sha256": hashlib.sha256("\n".join(rows.names).encode()).hexdigest(),
        "shard_clips": shard_clips,
        "sampling_rate": SAMPLING_RATE,
        "hop_length": HOP_LENGTH,
        "teachers": {name: {"kind": _kind(teacher), **teacher.description} for name, teacher in teachers.items()},
    }
    settings = json.loads(json.dumps(settings))  # as it reads back: tuples are lists
    count = -(-len(rows) // shard_clips)
    paths = [output_dir / f"features-{index:05d}-of-{count:05d}.parquet" for index in range(count)]
    strangers = sorted(path.name for path in set(output_dir.glob("*.parquet")) - set(paths))
    if strangers:
        raise ValueError(f"`output_dir` = {output_dir} holds features of other settings: {strangers[0]}")
    for path in paths:
        _check_settings(path, settings)

    mine = range(rank, count, world_size)
    todo = [index for index in mine if not paths[index].exists()]
    sizes = {index: min((index + 1) * shard_clips, len(rows)) - index * shard_clips for index in mine}
    with tqdm(
        total=sum(sizes.values()),
        initial=sum(sizes[index] for index in mine if index not in todo),
        desc=f"features (rank {rank} of {world_size})",
        unit="clip",
        disable=not progress,
    ) as bar:
        for index in todo:
            first = index * shard_clips
            clips = rows.read(first, first + sizes[index])
            _write_shard(paths[index], clips, teachers, settings, bar)
    if not all(path.exists() for path in paths):
        return None
    manifest = _manifest(paths, settings)
    _replace(
        output_dir / "manifest.json", lambda path: path.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    )
    return manifest


def _kind(teacher) -> str:
    return "tokens" if isinstance(teacher, TextTeacher) else "frames"


def _replace(path: Path, write):
    """All of a file or nothing: a temporary one beside it is moved into place. Others are never read: they are hidden."""
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _footer(path: Path) -> dict:
    return json.loads(pq.read_schema(path).metadata[METADATA_KEY])


def _check_settings(path: Path, settings: dict):
    if not path.exists():
        return
    theirs = _footer(path)["settings"]
    for key, value in settings.items():
        if theirs.get(key) != value:
            raise ValueError(f"`output_dir`: {path} was made with another {key}: name another folder or remove it")


def _write_shard(path: Path, clips, teachers: dict, settings: dict, bar):
    names, lengths, digest = [], [], hashlib.sha256()
    vectors = {column: [] for column in teachers}
    transcripts = {column: [] for column, teacher in teachers.items() if _kind(teacher) == "tokens"}
    for name, waveform, transcript in clips:
        names.append(name)
        lengths.append(len(waveform))
        digest.update(waveform.numpy().astype("<f4").data)
        for column, teacher in teachers.items():
            if column in transcripts:
                text = transcript if settings["transcripts"] else teacher.transcribe([waveform])[0]
                transcripts[column].append(text)
                values = teacher.embed(text)
            else:
                values = teacher([waveform])[0]
            vectors[column].append(_float16(values, f"{column!r} of {name!r}"))
        bar.update()
    columns = {"name": pa.array(names, pa.string()), "num_samples": pa.array(lengths, pa.int64())}
    columns |= {column: _list_array(items, teachers[column].feature_size) for column, items in vectors.items()}
    columns |= {f"{column}_transcript": pa.array(texts, pa.string()) for column, texts in transcripts.items()}
    footer = {
        "settings": settings,
        "clips": len(names),
        "samples": sum(lengths),
        "audio_sha256": digest.hexdigest(),
        "versions": _versions(),
        "sums": {column: _sums(items) for column, items in vectors.items()},
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(footer)})
    _replace(path, lambda temporary: pq.write_table(table, temporary, compression="zstd", use_dictionary=False))


def _sums(items: list[np.ndarray]) -> dict:
    """Of all vectors [C]: their number, sum and sum of squares."""
    flat = np.concatenate(items).astype(np.float64)
    return {"vectors": len(flat), "sum": flat.sum(0).tolist(), "squares": (flat**2).sum(0).tolist()}


def _float16(values: torch.Tensor, what: str) -> np.ndarray:
    values = values.float().cpu().numpy()
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST:
        raise ValueError(f"{what}: a feature is NaN, infinite or past float16 ({LARGEST:.0f})")
    return values.astype(np.float16)


def _list_array(items: list[np.ndarray], size: int) -> pa.Array:
    """Arrays [F, C] to a column of lists of fixed-size lists."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(items).reshape(-1)), size)
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in items])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _versions() -> dict:
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return versions


def _manifest(paths: list[Path], settings: dict) -> dict:
    footers = [_footer(path) for path in paths]
    shards = [
        {
            "file": path.name,
            "clips": footer["clips"],
            "seconds": footer["samples"] / SAMPLING_RATE,
            "audio_sha256": footer["audio_sha256"],
            "versions": footer["versions"],
        }
        for path, footer in zip(paths, footers, strict=True)
    ]
    statistics = {}
    for column in settings["teachers"]:
        sums = [footer["sums"][column] for footer in footers]
        vectors = sum(part["vectors"] for part in sums)
        mean, squares = (np.sum([part[key] for part in sums], 0) / max(vectors, 1) for key in ("sum", "squares"))
        std = np.sqrt(np.maximum(squares - mean**2, 0))
        # a channel that never varies (by more than float16 can say) is left alone
        std = np.where(std > 1e-4 * np.abs(mean), std, 1.0)
        statistics[column] = {"vectors": vectors, "mean": mean.tolist(), "std": std.tolist()}
    return {**settings, "statistics": statistics, "shards": shards}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="Hub id, folder, or Parquet files (*.parquet)")
    parser.add_argument("--split", default="train", help="split, in `datasets` syntax")
    parser.add_argument("--config-name", default=None, help="configuration of a data set that has several")
    parser.add_argument("--audio-column", default="audio")
    parser.add_argument("--transcripts", default=None, metavar="COLUMN", help="given transcripts for the text teacher")
    parser.add_argument("--teacher", action="append", required=True, metavar="NAME=KIND[,key=value ...]")
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--shard-clips", type=int, default=256, help="clips a file, the unit of resuming")
    return parser.parse_args(arguments)


def process_state() -> PartialState:
    """
    This process among those that were launched.

    Raises:
        RuntimeError: accelerate sees another number of processes than the launcher started.
    """
    # without `cpu=True` accelerate takes every process of `torchrun` on a machine without accelerator for the only one
    state = PartialState(cpu=not torch.accelerator.is_available())
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != launched:
        raise RuntimeError(f"WORLD_SIZE is {launched}, accelerate sees {state.num_processes} process(es)")
    return state


def main(arguments=None):
    options = parse_arguments(arguments)
    state = process_state()
    if options.shard_clips < 1:
        raise ValueError(f"`--shard-clips` must be at least 1, got {options.shard_clips}")
    teachers = {}
    for name, kind, keys in map(parse_teacher, options.teacher):
        if name in teachers or name in ("name", "num_samples"):
            raise ValueError(f"`--teacher`: the name {name!r} is taken")
        if kind == "text" and options.transcripts:
            keys.setdefault("recognizer", None)
        teachers[name] = load_teacher(kind, device=state.device, **keys)
    rows = AudioRows(options.source, options.split, options.audio_column, options.transcripts, options.config_name)
    settings = {
        "source": options.source,
        "split": options.split,
        "config_name": options.config_name,
        "audio_column": options.audio_column,
        "transcripts": options.transcripts,
    }
    manifest = extract(
        rows,
        teachers,
        options.output_dir,
        settings,
        options.shard_clips,
        state.process_index,
        state.num_processes,
        progress=state.is_local_main_process,
    )
    if manifest is not None:
        seconds = sum(shard["seconds"] for shard in manifest["shards"])
        print(f"{options.output_dir}: {manifest['clips']} clips, {seconds / 3600:.2f} h")
    state.destroy_process_group()


if __name__ == "__main__":
    main()
