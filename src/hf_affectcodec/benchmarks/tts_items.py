"""What zero-shot speech synthesis is judged on: items (a text, a prompt, a reference recording) and generated clips."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hf_affectcodec.audio import AudioFileError, load_audio

from .codecs import SAMPLING_RATE
from .measuring import Sample


SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
LABELS = ("text", "language", "emotion", "speaker")


def read_rows(path: str | Path, audio: Sequence[str]) -> list[dict]:
    """
    Rows of a JSONL or Parquet file. Audio is the path of a file in JSONL, from the folder that the JSONL is in, and a struct
    of `bytes` and `path` in Parquet.

    Args:
        path (`str` or `Path`): The file.
        audio (sequence of `str`): Columns of audio; in the rows they become bytes, or a `Path`, or `None`.

    Raises:
        ValueError: The file has another suffix, or a line is not JSON.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise ImportError("Parquet needs the package `pyarrow`: pip install 'hf-affectcodec[eval]'") from error
        rows = parquet.read_table(path).to_pylist()
        for row in rows:
            for name in audio:
                if row.get(name) is not None:
                    row[name] = row[name]["bytes"]
        return rows
    if path.suffix != ".jsonl":
        raise ValueError(f"`items` must be a .jsonl or .parquet file, got {path.name!r}")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"`items`: {path.name} has a line that is not JSON ({error})") from error
    for row in rows:
        for name in audio:
            if row.get(name) is not None:
                row[name] = path.parent / row[name]
    return rows


@dataclass(frozen=True)
class Item:
    """
    Args:
        index (`int`): Place among the items.
        id (`str`): What generated clips of it are called.
        text (`str`): What is to be said.
        prompt, reference (`bytes` or `Path`, *optional*): Audio of the voice to imitate, and of the voice saying the text.
        language, emotion, speaker (`str`, *optional*): Of the item.
        prompt_text (`str`, *optional*): The words of the prompt.
    """

    index: int
    id: str
    text: str
    prompt: bytes | Path | None
    reference: bytes | Path | None
    language: str | None
    emotion: str | None
    speaker: str | None
    prompt_text: str | None = None


def read_items(path: str | Path, limit: int | None = None) -> list[Item]:
    """
    Items of a JSONL or Parquet file with the columns `id`, `text`, and as far as there are `prompt`, `reference`,
    `prompt_text`, `language`, `emotion`, `speaker`. In a table with a row for each system as well, an item is its first row.

    Raises:
        ValueError: A row has no `id` or `text`, two rows of one id differ in their text, or there are none.
    """
    items: dict[str, Item] = {}
    for place, row in enumerate(read_rows(path, ("prompt", "reference"))):
        for name in ("id", "text"):
            if row.get(name) is None or not str(row[name]).strip():
                raise ValueError(f"`items`: row {place} of {Path(path).name} has no `{name}`")
        identity = str(row["id"])
        if identity in items:
            if items[identity].text != row["text"]:
                raise ValueError(f"`items`: two rows of the id {identity!r} have different texts")
            continue
        if limit is not None and len(items) == limit:
            continue
        labels = {name: row.get(name) for name in LABELS}
        prompt = {name: row.get(name) for name in ("prompt", "prompt_text", "reference")}
        items[identity] = Item(len(items), identity, **prompt, **labels)
    if not items:
        raise ValueError(f"`items`: {Path(path).name} has no rows within `limit` {limit}")
    return list(items.values())


class SpeechSystem(Protocol):
    """
    Attributes:
        name (`str`): What the system is called in the table; `reference` and `prompt` are taken.
        fingerprint (`str`): Changes whenever what it generates may change.
    """

    name: str
    fingerprint: str

    def __call__(self, item: Item) -> np.ndarray:
        """
        The clip generated for an item: float32 [T] at 16 kHz.

        Raises:
            ValueError: There is none.
        """
        ...


class Generated:
    """
    Clips that were generated before.

    Args:
        name (`str`): Of the system.
        source (`str` or `Path`): A folder with `ID.wav` (or .flac, .ogg, .mp3) for each item, or a JSONL or Parquet file
            with the columns `id` and `audio`; where it has a column `system`, the rows of this name.

    Raises:
        ValueError: There is no such folder or file, or an id is there twice.
    """

    def __init__(self, name: str, source: str | Path):
        self.name = name
        source = Path(source)
        if source.is_dir():
            found = [(path.stem, path) for path in sorted(source.iterdir()) if path.suffix.lower() in SUFFIXES]
        elif source.is_file():
            rows = read_rows(source, ("audio",))
            found = [
                (str(row["id"]), row["audio"])
                for row in rows
                if row.get("system", name) == name and row.get("audio") is not None
            ]
        else:
            raise ValueError(f"`systems`: {name} has no folder or file {str(source)!r}")
        self.audio = dict(found)
        if len(self.audio) < len(found):
            raise ValueError(f"`systems`: {name} has two clips of one id")
        digest = hashlib.sha256()
        for identity, data in sorted(self.audio.items()):
            content = data.read_bytes() if isinstance(data, Path) and data.is_file() else data
            digest.update(identity.encode() + hashlib.sha256(content if isinstance(content, bytes) else b"").digest())
        self.fingerprint = digest.hexdigest()

    def __call__(self, item: Item) -> np.ndarray:
        if item.id not in self.audio:
            raise ValueError(f"`item`: {self.name} has no clip {item.id!r}")
        return read_waveform(self.audio[item.id], item.id)


class Recordings:
    """
    The items' own recordings as a system: the references, the ceiling of every column, or the prompts.

    Args:
        name (`str`): `"reference"` or `"prompt"`.
        items (sequence of [`Item`]): The items.
    """

    def __init__(self, name: str, items: Sequence[Item]):
        self.name = name
        self.audio = {item.id: {"reference": item.reference, "prompt": item.prompt}[name] for item in items}
        self.fingerprint = "recordings"

    def __call__(self, item: Item) -> np.ndarray:
        if self.audio[item.id] is None:
            raise ValueError(f"`item`: {item.id!r} has no {self.name}")
        return read_waveform(self.audio[item.id], item.id)


def read_waveform(source: bytes | Path, name: str) -> np.ndarray:
    """
    Mono audio, float32 [T] at 16 kHz.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        return load_audio(source, SAMPLING_RATE, name=name)[0].numpy()
    except (AudioFileError, OSError) as error:
        raise ValueError(str(error)) from error


def speak(system: SpeechSystem, item: Item) -> tuple[dict, Sample | None]:
    """The beginning of a row, and the item's reference with what the system said; see [`~.measuring.run_codec`]."""
    row = {
        "system": system.name,
        "fingerprint": system.fingerprint,
        "clip": item.index,
        "path": item.id,
        "language": item.language,
        "speaker_id": item.speaker,
        "seconds": None,
    }
    try:
        waveform = np.asarray(system(item), dtype=np.float32)
    except (ValueError, RuntimeError) as error:
        return {**row, "failures": {"clip": str(error)}}, None
    try:
        reference = None if item.reference is None else read_waveform(item.reference, item.id)
    except ValueError as error:
        return {**row, "failures": {"reference": str(error)}}, None
    row["seconds"] = waveform.size / SAMPLING_RATE
    return row, Sample(item.index, reference, waveform)
