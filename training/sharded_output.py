"""
What the scripts that turn a data set of audio into files of numbers share: rows, ranks, files that are whole or not there,
resuming, the manifest.

A data set is cut into files of the same number of clips, a streamed one into a file for each of its own; rank r of n takes
the files r, r + n, ... Each file carries the settings it was made with, and a folder takes files of one kind of settings only.
Ranks need not wait for each other: whoever finishes the last file writes the manifest.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hf_affectcodec.audio import AudioFileError, load_audio
from hf_affectcodec.data.error_text import first_line
from hf_affectcodec.data.streamed_clips import opened
from hf_affectcodec.data.streaming import open_stream, source_files


METADATA_KEY = b"hf_affectcodec"
LIBRARIES = ("hf-affectcodec", "torch", "torchaudio", "transformers", "datasets", "numpy", "pyarrow")


class AudioRows:
    """
    The rows of a `datasets` audio set, decoded one by one.

    Args:
        source: Hub id, folder, or Parquet files (a name that ends in `.parquet`, `*` allowed).
        split: Split, in `datasets` syntax.
        audio_column: Column of the audio.
        columns: Other columns that are wanted.
        config_name: Configuration of a set that has several.
        unique_names: Whether two clips of one name are an error.
        revision: Branch, tag or commit of a Hub id.

    Attributes:
        names (`list[str]`): What each clip is called: its path in the data set, or its row.
        features (`datasets.Features`): Types of the wanted columns.

    Raises:
        ValueError: No such column, or two clips of the same name.
    """

    def __init__(
        self,
        source: str,
        split: str,
        audio_column: str = "audio",
        columns: Sequence[str] = (),
        config_name: str | None = None,
        unique_names: bool = True,
        revision: str | None = None,
    ):
        if source.endswith(".parquet"):
            if revision is not None:
                raise ValueError("`revision` goes with a Hub id")
            rows = datasets.load_dataset("parquet", config_name, data_files={split.split("[")[0]: source}, split=split)
        else:
            rows = datasets.load_dataset(source, config_name, split=split, revision=revision)
        wanted = list(dict.fromkeys([audio_column, *columns]))
        missing = sorted(set(wanted) - set(rows.column_names))
        if missing:
            raise ValueError(
                f"`source` = {source!r}, split {split!r} has no column {missing[0]!r}: {rows.column_names}"
            )
        self.features = datasets.Features({column: rows.features[column] for column in columns})
        # our own loader decodes: it needs no torchcodec and says which file is bad
        rows = rows.select_columns(wanted).cast_column(audio_column, datasets.Audio(decode=False))
        self.audio_column, self.columns = audio_column, list(columns)
        self._audio = rows.select_columns([audio_column]).with_format("arrow")
        self._others = rows.select_columns(self.columns).with_format("arrow")
        self.names = []
        for table in self._audio.iter(1000):
            paths = pc.struct_field(table[audio_column], "path").to_pylist()
            self.names += [path or f"row {len(self.names) + index}" for index, path in enumerate(paths)]
        seen = set()
        for name in self.names if unique_names else ():
            if name in seen:
                raise ValueError(f"`source` = {source!r}, split {split!r} has two clips named {name!r}")
            seen.add(name)

    def __len__(self) -> int:
        return len(self.names)

    def table(self, first: int, last: int) -> pa.Table:
        """The wanted columns of rows `first` to `last`, without the audio."""
        return self._others[first:last]

    def audio(self, first: int, last: int) -> list[tuple[str, "bytes | str | None"]]:
        """(name, content or path) of rows `first` to `last`; `None`: no audio."""
        contents = _contents(self._audio[first:last][self.audio_column])
        return list(zip(self.names[first:last], contents, strict=True))

    def read(self, first: int, last: int, sampling_rate: int) -> Iterator[tuple[str, torch.Tensor, dict]]:
        """(name, waveform [T], wanted columns) of rows `first` to `last`."""
        for index in range(first, last):
            ((name, content),) = self.audio(index, index + 1)
            row = self.table(index, index + 1).to_pylist()[0] if self.columns else {}
            yield name, decode_clip(name, content, sampling_rate), row


def _contents(audio: pa.ChunkedArray) -> list["bytes | str | None"]:
    """The bytes or, where they are elsewhere, the path of each clip; `None`: no audio."""
    items = [item or {"bytes": None, "path": None} for item in audio.to_pylist()]
    return [item["path"] if item["bytes"] is None else item["bytes"] for item in items]


@dataclass
class Window:
    """
    Some rows, one after another.

    Attributes:
        first: Number of the first.
        clips: (name, content) of each; the content is bytes, a path, a URL, or `None` where there is no audio.
        columns: The wanted columns.
    """

    first: int
    clips: list[tuple[str, "bytes | str | None"]]
    columns: pa.Table


class RowFiles:
    """
    What each file is made of: the same number of rows of an [`AudioRows`].

    Attributes:
        count (`int`): Files.
        sizes (`list[int] | None`): Rows of each, where that is known beforehand.
        features (`datasets.Features`): Types of the wanted columns.
        identity (`dict`): What tells the corpus from others, fit for JSON.
    """

    def __init__(self, rows: AudioRows, shard_clips: int):
        self.rows, self.shard_clips = rows, shard_clips
        self.count = -(-len(rows) // shard_clips)
        self.sizes = [min(shard_clips, len(rows) - index * shard_clips) for index in range(self.count)]
        self.features = rows.features
        self.identity = {"clips": len(rows), "names_sha256": sha256_of_names(rows.names), "shard_clips": shard_clips}

    def windows(self, index: int, size: int) -> Iterator[Window]:
        """The rows of file `index`, at most `size` at a time."""
        begin = index * self.shard_clips
        end = begin + self.sizes[index]
        for first in range(begin, end, size):
            last = min(first + size, end)
            yield Window(first, self.rows.audio(first, last), self.rows.table(first, last))


class StreamedRowFiles:
    """
    The same of a data set that is read from where it is: a file for each of its own (Parquet file, tar).

    Rows are counted within their file. The identity has the names of the source's files, and the commit that a Hub id had
    when this was made, which is also what is read, so that a data set may change in the meantime.

    Args:
        source, split, audio_column, columns, config_name, revision: As [`AudioRows`] takes them; streams have no slices.

    Raises:
        ValueError: No such source, split or column; or types of columns that its files do not declare.
    """

    def __init__(
        self,
        source: str,
        split: str,
        audio_column: str = "audio",
        columns: Sequence[str] = (),
        config_name: str | None = None,
        revision: str | None = None,
    ):
        files = source_files(source, split, config_name, revision)
        commits = sorted({match[1] for file in files if (match := re.match(r"hf://datasets/[^@]+@([^/]+)/", file))})
        column_map = {"audio": audio_column, **{f"column {column}": column for column in columns}}
        self._rows = open_stream(source, split, column_map, config_name, commits[0] if commits else revision)
        if columns and self._rows.features is None:
            raise ValueError(f"`source` = {source!r} does not declare the types of its columns, so none can be kept")
        self.audio_column, self.columns = audio_column, list(columns)
        self.count, self.sizes = self._rows.num_shards, None
        self.features = datasets.Features({column: self._rows.features[column] for column in columns})
        self.identity = {"commit": commits[0] if commits else None, "files": self.count}
        self.identity["files_sha256"] = sha256_of_names(files)

    def windows(self, index: int, size: int) -> Iterator[Window]:
        """
        The rows of file `index`, at most `size` at a time.

        Raises:
            ConnectionError: It could not be fetched.
        """
        first = 0
        try:
            # `iter`, because `for` gives rows; in arrow, because kept columns go on as they are
            for table in self._rows.shard(self.count, index).with_format("arrow").iter(size):
                contents = _contents(table[self.audio_column])
                paths = pc.struct_field(table[self.audio_column], "path").to_pylist()
                names = [path or f"file {index}, row {first + offset}" for offset, path in enumerate(paths)]
                yield Window(first, list(zip(names, contents, strict=True)), table.select(self.columns))
                first += len(table)
        except (HfHubHTTPError, HTTPError) as error:
            raise ConnectionError(
                f"file {index} of the source could not be fetched ({first_line(error)}); run it again to go on"
            ) from error


def decode_clip(name: str, content: "bytes | str | None", sampling_rate: int) -> torch.Tensor:
    """
    Waveform [T] at `sampling_rate` of what [`AudioRows.audio`] gives.

    Raises:
        AudioFileError: It cannot be read.
        ConnectionError: It is remote and could not be fetched.
    """
    if content is None:
        raise AudioFileError(f"{name}: no audio")
    if isinstance(content, str) and "://" in content:
        with opened(content, name) as file:
            return load_audio(file, sampling_rate, name=name)[0]
    return load_audio(content, sampling_rate, name=name)[0]


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


def sha256_of_names(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def plan_files(output_dir: Path, stem: str, settings: dict, num_clips: int, shard_clips: int) -> list[Path]:
    """
    The files that the data set consists of, `STEM-00000-of-00010.parquet` and so on; makes the folder.

    Args:
        output_dir: Folder.
        stem: What the files hold, in a word.
        settings: What their content depends on, as it reads back from JSON.
        num_clips, shard_clips: Clips in all, and in a file.

    Raises:
        ValueError: There are no clips, or the folder holds files of other settings.
    """
    if not num_clips:
        raise ValueError("`rows` is empty")
    return plan_count(output_dir, stem, settings, -(-num_clips // shard_clips))


def plan_count(output_dir: Path, stem: str, settings: dict, count: int) -> list[Path]:
    """As [`plan_files`], for a number of files."""
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = [output_dir / f"{stem}-{index:05d}-of-{count:05d}.parquet" for index in range(count)]
    strangers = sorted(path.name for path in set(output_dir.glob("*.parquet")) - set(paths))
    if strangers:
        raise ValueError(f"`output_dir` = {output_dir} holds {stem} of other settings: {strangers[0]}")
    for path in filter(Path.exists, paths):
        theirs = read_footer(path)["settings"]
        for key, value in settings.items():
            if theirs.get(key) != value:
                was = f" ({theirs[key]})" if isinstance(theirs.get(key), str) else ""
                raise ValueError(
                    f"`output_dir`: {path} was made with another {key}{was}: name another folder or remove it"
                )
    return paths


def write_file(path: Path, table: pa.Table, footer: dict, **options):
    """A Parquet file whose metadata holds `footer`; all of it or nothing."""
    metadata = (table.schema.metadata or {}) | {METADATA_KEY: json.dumps(footer)}
    table = table.replace_schema_metadata(metadata)

    def write(temporary: Path):
        if len(table):
            pq.write_table(table, temporary, compression="zstd", **options)
        else:  # `datasets` cannot read a row group without rows, which `write_table` would make
            pq.ParquetWriter(temporary, table.schema).close()

    _replace(path, write)


def read_footer(path: Path) -> dict:
    return json.loads(pq.read_schema(path).metadata[METADATA_KEY])


def write_manifest(output_dir: Path, manifest: dict):
    """`manifest.json`; one that says the same is left alone."""
    path, text = output_dir / "manifest.json", json.dumps(manifest, indent=1) + "\n"
    if not path.exists() or path.read_text("utf-8") != text:
        _replace(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _replace(path: Path, write: Callable[[Path], object]):
    """All of a file or nothing: a temporary one beside it is moved into place. Others are never read: they are hidden."""
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def library_versions() -> dict:
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return versions
