"""
Systems x clips x groups of columns, resumable: each group keeps its rows in a file of its own, so that a group can be
added, or its backend changed, without measuring the others again.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from hf_affectcodec.audio import AudioFileError, load_audio

from .clips import Clip
from .codecs import SAMPLING_RATE, Codec
from .columns.kinds import Evaluated, FigureColumn, MeanColumn, RateColumn
from .rows import Rows


QUEUE = 4  # clips coded ahead of each worker


@dataclass(frozen=True)
class Sample:
    """
    One clip and what a system made of it.

    Args:
        index (`int`): Of the clip.
        reference (`np.ndarray` [T]): float32 at 16 kHz.
        degraded (`np.ndarray` [T2]): float32 at 16 kHz.
    """

    index: int
    reference: np.ndarray
    degraded: np.ndarray


class ColumnGroup(Protocol):
    """
    Columns that one backend measures together.

    Attributes:
        name (`str`): Of its file of rows.
        title (`str`): Heading of its part of the table.
        columns (`dict`): Its columns by name.
        protocol (`dict`): All that its rows depend on beside data and system, fit for JSON.
        reference (`str`, *optional*): Name of the system that rows of others are compared with, where they are.
        in_workers (`bool`): Whether `measure` may run in another process, without the system.
        missing (`dict`): What a row holds of this group where a clip did not get as far as `measure`.
    """

    name: str
    title: str
    columns: dict[str, MeanColumn | RateColumn | FigureColumn]
    protocol: dict
    reference: str | None
    in_workers: bool
    missing: dict

    def measure(self, system, sample: Sample) -> dict:
        """What a row keeps of one clip, fit for JSON but for NaN, with `failures`: stage to reason."""
        ...

    def evaluate(self, rows: list[dict], references: list[dict] | None, seed: int) -> Evaluated:
        """The values of one system from its rows and those of the reference system, in the order of the clips."""
        ...

    def anchors(self, references: list[dict] | None, seed: int) -> dict[str, float | str]:
        """What the values are to be read against (a floor, a ceiling, ...); may be empty."""
        ...


# ----- one clip through a codec


def run_codec(codec: Codec, clip: Clip) -> tuple[dict, Sample | None]:
    """
    Returns the beginning of a row, and the clip with what the codec made of it; or, for a clip that cannot be read or
    coded, `failures` in the row and `None`.
    """
    row = {
        "system": codec.name,
        "fingerprint": codec.fingerprint,
        "clip": clip.index,
        "path": clip.path,
        "language": clip.language,
        "speaker_id": clip.speaker_id,
        "seconds": None,
        "bits": None,
        "codec_seconds": None,
    }
    try:
        reference = load_audio(clip.data, SAMPLING_RATE, name=clip.path)[0].numpy()
    except AudioFileError as error:
        return {**row, "failures": {"clip": str(error)}}, None
    row["seconds"] = reference.size / SAMPLING_RATE
    start = time.perf_counter()
    # Networks refuse clips (too short for a kernel, say) by RuntimeError. Other errors are bugs and end the run.
    try:
        degraded, bits = codec(reference)
    except (ValueError, RuntimeError) as error:
        return {**row, "failures": {"codec": str(error)}}, None
    row["codec_seconds"] = round(time.perf_counter() - start, 4)
    if degraded.shape != reference.shape:
        reason = f"{codec.name} made {list(degraded.shape)} samples of {list(reference.shape)}"
        return {**row, "failures": {"codec": reason}}, None
    row["bits"] = int(bits)
    return row, Sample(clip.index, reference, degraded)


# ----- all of them


def measure_all(
    systems: Sequence,
    items: Callable[[], Iterable],
    num_items: int,
    produce: Callable[[object, object], tuple[dict, Sample | None]],
    groups: Sequence[ColumnGroup],
    files: dict[str, Path],
    protocol: dict,
    workers: int = 0,
) -> dict[str, list[list[dict]]]:
    """
    Measures what is missing in the files of rows. Each clip goes through each system once, however many groups want it.

    Args:
        systems (sequence): With `name` and `fingerprint`.
        items (`Callable`): Opens the clips, each with an `index` from 0.
        num_items (`int`): How many they are.
        produce (`Callable`): `(system, item) -> (beginning of a row, Sample or None)`, such as [`run_codec`].
        groups (sequence of [`ColumnGroup`]): What is measured.
        files (`dict`): The file of rows of each group.
        protocol (`dict`): What all groups have in common.
        workers (`int`, *optional*, defaults to 0): Processes for the groups that allow it; 0 measures in this one. Rows
            are the same, in the same order. Systems always run in this process.

    Returns:
        `dict[str, list[list[dict]]]`: For each group, for each system its rows, one a clip, in the order of the clips.

    Raises:
        ValueError: Two systems have one name, or rows on disk are of another protocol.
    """
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise ValueError(f"`codecs` must have names of their own, got {names}")
    rows = {group.name: Rows(files[group.name], {**protocol, **group.protocol}) for group in groups}
    pending: deque[tuple[Rows, dict, Future | None]] = (
        deque()
    )  # oldest first: rows are written in a serial run's order
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context) if workers else None

    def finish_oldest():
        target, row, future = pending.popleft()
        target.append(row if future is None else {**row, **future.result()})

    try:
        with tqdm(total=len(systems) * num_items, unit="clip") as bar:
            for system in systems:
                bar.set_description(system.name)
                for item in items():
                    bar.update()
                    key = Rows.key(system, item.index)
                    wanting = [group for group in groups if key not in rows[group.name].by_key]
                    if not wanting:
                        continue
                    row, sample = produce(system, item)
                    for group in wanting:
                        target = rows[group.name]
                        if sample is None:
                            pending.append((target, {**row, **group.missing, "failures": row["failures"]}, None))
                        elif pool is not None and group.in_workers:
                            pending.append((target, row, pool.submit(group.measure, None, sample)))
                        else:
                            pending.append((target, {**row, **group.measure(system, sample)}, None))
                    while len(pending) > (QUEUE * workers if workers else 0):
                        finish_oldest()
            while pending:
                finish_oldest()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return {
        name: [[found.by_key[Rows.key(system, index)] for index in range(num_items)] for system in systems]
        for name, found in rows.items()
    }
