"""Clips of a Parquet file with an audio column, and what the file says of each."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download


try:
    import pyarrow.parquet as parquet
except ImportError as error:
    raise ImportError("The tables need the package `pyarrow`: pip install 'hf-affectcodec[eval]'") from error


@dataclass(frozen=True)
class Clip:
    """
    Args:
        index (`int`): Row of the Parquet file.
        path (`str`): Path that the row names, or its index as text.
        data (`bytes`): The audio file.
        language, speaker_id (`str`, *optional*): Of the row, where the file has such columns.
    """

    index: int
    path: str
    data: bytes
    language: str | None
    speaker_id: str | None


def read_clips(path: str | Path, limit: int | None = None, column: str = "audio") -> Iterator[Clip]:
    """
    Yields the first `limit` rows (all without it) of a Parquet file whose column `column` is a struct of `bytes` and
    `path`, as `datasets` writes it.

    Raises:
        ValueError: The file has no such column, or a row has no bytes.
    """
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise ValueError(f"`path`: {Path(path).name} has no column `{column}`, only {names}")
        columns = [name for name in (column, "language", "speaker_id") if name in names]
        index = 0
        for batch in file.iter_batches(batch_size=16, columns=columns):
            for row in batch.to_pylist():
                if index == limit:
                    return
                audio = row[column]
                if audio is None or audio["bytes"] is None:
                    raise ValueError(f"`path`: row {index} of {Path(path).name} has no audio bytes")
                yield Clip(
                    index, audio["path"] or str(index), audio["bytes"], row.get("language"), row.get("speaker_id")
                )
                index += 1


def count_clips(path: str | Path, limit: int | None = None) -> int:
    """
    Rows of a Parquet file, `limit` at most.

    Raises:
        ValueError: There are none.
    """
    num_rows = parquet.read_metadata(path).num_rows
    num_clips = num_rows if limit is None else min(limit, num_rows)
    if num_clips < 1:
        raise ValueError(f"`limit`: no clips in {Path(path).name} with limit {limit}")
    return num_clips


def read_labels(path: str | Path, columns: Mapping[str, str], num_clips: int) -> dict[str, list]:
    """
    Args:
        path (`str` or `Path`): Parquet file.
        columns (mapping of `str`): Our name of a column to its name in the file.
        num_clips (`int`): Rows to read.

    Returns:
        `dict[str, list]`: For each of our names one value a clip; a blank text is `None`.

    Raises:
        ValueError: The file lacks a column.
    """
    names = parquet.read_schema(path).names
    missing = sorted(set(columns.values()) - set(names))
    if missing:
        raise ValueError(f"`columns`: {Path(path).name} has no column {missing[0]!r}, only {names}")
    table = parquet.read_table(path, columns=sorted(set(columns.values()))).slice(0, num_clips)
    return {
        ours: [None if value is None or not str(value).strip() else value for value in table[theirs].to_pylist()]
        for ours, theirs in columns.items()
    }


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def resolve_data(source: str) -> Path:
    """
    Args:
        source (`str`): A Parquet file, or `hf://datasets/ORG/NAME/FILE`, which is downloaded once.

    Raises:
        ValueError: There is no such file, or the address has another form.
    """
    if source.startswith("hf://"):
        parts = source.removeprefix("hf://").split("/")
        if parts[0] != "datasets" or len(parts) < 4:
            raise ValueError(f"`data` must be hf://datasets/ORG/NAME/FILE, got {source!r}")
        return Path(hf_hub_download("/".join(parts[1:3]), "/".join(parts[3:]), repo_type="dataset"))
    if not Path(source).is_file():
        raise ValueError(f"`data` must be a Parquet file, got {source!r}")
    return Path(source)
