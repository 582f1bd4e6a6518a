"""
Training on recordings that do not fit on this machine: batches of crops out of streamed `datasets` data sets.

[`StreamedCrops`] mixes sources and gives batches by step, as `RandomCrops` does for clips in memory. Nothing that was
read is part of its state, which is a few numbers for each source, from which the same crops are read again.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ..audio import load_audio
from .crop_stream import CropStream, TooManyBadClipsError
from .error_text import first_line
from .streamed_clips import opened


@dataclass(frozen=True)
class StreamSource:
    """
    A source of a mixture: the arguments of [`open_stream`] and a weight.

    Args:
        source (`str`, `os.PathLike` or a sequence of them): What to stream.
        split (`str`, *optional*, defaults to `"train"`): Its split.
        column_map (`dict[str, str]`, *optional*, defaults to `{"audio": "audio"}`): Our column names to its own.
        config_name (`str`, *optional*): Its configuration.
        weight (`float`, *optional*, defaults to 1.0): Share of the crops that comes from it, relative to the others.
    """

    source: "str | os.PathLike | Sequence[str | os.PathLike]"
    split: str = "train"
    column_map: dict[str, str] | None = None
    config_name: str | None = None
    weight: float = 1.0

    @property
    def label(self) -> str:
        """What errors call it."""
        first = self.source if isinstance(self.source, str | os.PathLike) else self.source[0]
        return f"{os.fspath(first)} {self.split}"


def open_stream(
    source: "str | os.PathLike | Sequence[str | os.PathLike]",
    split: str = "train",
    column_map: dict[str, str] | None = None,
    config_name: str | None = None,
    revision: str | None = None,
):
    """
    A split of a `datasets` audio set, streamed, with nothing decoded.

    Args:
        source (`str`, `os.PathLike` or a sequence of them): As [`load_clips`] takes it: a Hub id, an audio folder, a
            folder of Parquet files, or names that end in `.parquet`.
        split (`str`, *optional*, defaults to `"train"`): Name of a split; streams have no slices (`"train[:100]"`).
        column_map (`dict[str, str]`, *optional*, defaults to `{"audio": "audio"}`): Our column names to those of the
            set.
        config_name (`str`, *optional*): Configuration of a set that has several.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.

    Returns:
        `datasets.IterableDataset` of the mapped columns, by their own names; the audio column holds `bytes` and `path`.

    Raises:
        `ImportError`: `datasets` is missing (`pip install hf-affectcodec[train]`).
        `ValueError`: no such source, split or column.
    """
    column_map = {"audio": "audio"} if column_map is None else column_map
    if "audio" not in column_map:
        raise ValueError(f"`column_map` must name the column that is `audio`, got {column_map}")
    datasets = _datasets()
    with _said_of(source, split) as shown:
        rows = datasets.load_dataset(
            **_load_arguments(source, split, config_name, revision), split=split, streaming=True
        )
    if rows.features:
        # A data set of audio files on the Hub comes with a decoding step that a cast alone would leave in place.
        rows = rows.decode(False)
    columns = rows.column_names or list(next(iter(rows), {}))
    missing = sorted(set(column_map.values()) - set(columns))
    if missing:
        raise ValueError(f"`column_map` names columns {missing}; {shown} has {columns}")
    rows = rows.select_columns(list(dict.fromkeys(column_map.values())))
    return rows.cast_column(column_map["audio"], datasets.Audio(decode=False))


def source_files(
    source: "str | os.PathLike | Sequence[str | os.PathLike]",
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
) -> list[str]:
    """
    The files that [`open_stream`] reads: local paths, or `hf://datasets/ORG/NAME@COMMIT/FILE`, in which a branch has become
    the commit where it stands now.

    Raises:
        `ImportError`, `ValueError`: as [`open_stream`].
    """
    datasets = _datasets()
    with _said_of(source, split):
        builder = datasets.load_dataset_builder(**_load_arguments(source, split, config_name, revision))
        if split not in builder.config.data_files:
            raise ValueError(f"it has {sorted(builder.config.data_files)}")
        return list(builder.config.data_files[split])


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise ImportError("streaming needs `datasets`: pip install hf-affectcodec[train]") from error
    return datasets


def _paths(source) -> list[str]:
    return [os.fspath(file) for file in ([source] if isinstance(source, str | os.PathLike) else source)]


def _load_arguments(source, split: str, config_name: str | None, revision: str | None) -> dict:
    """What `load_dataset` takes for a source as [`open_stream`] takes it."""
    files = _paths(source)
    if "[" in split or "+" in split:  # to `datasets`, files that are named could be a split of any name
        raise ValueError("streams have no slices and no sums of splits")
    if files and all(file.endswith(".parquet") for file in files):
        if revision is not None:
            raise ValueError("`revision` goes with a Hub id")
        return {"path": "parquet", "name": config_name, "data_files": {split: files}}
    if len(files) != 1:
        raise ValueError("a sequence must name Parquet files")
    return {"path": files[0], "name": config_name, "revision": revision}


@contextmanager
def _said_of(source, split: str) -> Iterator[str]:
    """Yields what errors call a source; what `datasets` raises of it inside becomes one line."""
    datasets, files = _datasets(), _paths(source)
    shown = f"`source` = {files[0] if len(files) == 1 else files}, split {split!r}"
    try:
        yield shown
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{shown}: cannot be streamed ({first_line(error.__cause__ or error)})") from error


def load_first_clips(source: StreamSource, count: int, sampling_rate: int = 16_000) -> list[np.ndarray]:
    """
    The first `count` clips of a stream, decoded, each `[T]` int16: a validation set out of a corpus that is not downloaded.

    Raises:
        `ValueError`, `AudioFileError`, `ConnectionError`: no such source, a clip cannot be read, or not be fetched.
    """
    column_map = source.column_map or {"audio": "audio"}
    waveforms = []
    for index, row in enumerate(open_stream(source.source, source.split, column_map, source.config_name).take(count)):
        audio = row[column_map["audio"]]
        name = f"{audio['path'] or 'clip'} ({source.label}, row {index})"
        with opened(audio["path"] if audio["bytes"] is None else audio["bytes"], name) as file:
            waveform = load_audio(file, sampling_rate, name=name)[0]
        waveforms.append((waveform * 32768).round().clamp(-32768, 32767).short().numpy())
    return waveforms


class _Mixture(torch.utils.data.IterableDataset):
    """
    Batches of one consumer, each with the state after it; in a `DataLoader` each worker is a consumer of its own.

    `states` holds a state a worker, or `None` at the start; the next batch is that of worker `next_worker`.
    """

    def __init__(
        self, streams, weights, batch_size, crop_samples, seed, rank, world_size, num_workers, states, next_worker
    ):
        self.streams = streams  # function of (consumer, consumers): a `CropStream` a source
        self.probabilities = np.asarray(weights, np.float64) / np.sum(weights)
        self.batch_size, self.crop_samples, self.seed = batch_size, crop_samples, seed
        self.rank, self.world_size, self.num_workers = rank, world_size, num_workers
        self.states, self.next_worker = states, next_worker

    def __iter__(self) -> Iterator[tuple[dict, dict]]:
        info = torch.utils.data.get_worker_info()
        # A loader always begins with its worker 0; after a resume that one takes the part of whose turn it is.
        worker = (self.next_worker + (0 if info is None else info.id)) % self.num_workers
        consumer, consumers = self.rank * self.num_workers + worker, self.world_size * self.num_workers
        streams = self.streams(consumer, consumers)
        drawn = 0
        if self.states[worker] is not None:
            drawn = self.states[worker]["drawn"]
            for stream, state in zip(streams, self.states[worker]["sources"], strict=True):
                stream.load_state_dict(state)
        while True:
            crops = []
            for _ in range(self.batch_size):
                draw = np.random.default_rng([self.seed, 4, consumer, consumers, drawn])
                index = 0 if len(streams) == 1 else int(draw.choice(len(streams), p=self.probabilities))
                drawn += 1
                try:
                    crops.append(next(streams[index]))
                except (TooManyBadClipsError, ValueError, ConnectionError) as error:
                    if info is None:
                        raise
                    # Handed on as it is: a loader would wrap its one line into the worker's traceback.
                    yield error, None
                    return
            yield self._batch(crops), {"drawn": drawn, "sources": [stream.state_dict() for stream in streams]}

    def _batch(self, crops: list[dict]) -> dict:
        values = np.zeros((len(crops), 1, self.crop_samples), np.float32)
        mask = np.zeros((len(crops), self.crop_samples), bool)
        for row, crop in enumerate(crops):
            values[row, 0, : len(crop["values"])] = crop["values"]
            mask[row, : len(crop["values"])] = True
        batch = {"input_values": torch.from_numpy(values), "padding_mask": torch.from_numpy(mask)}
        batch["start"] = torch.tensor([crop["start"] for crop in crops], dtype=torch.int64)
        for column in crops[0].keys() - {"values", "start"}:
            batch[column] = [crop[column] for crop in crops]
        return batch


class StreamedCrops:
    """
    Batches of random crops out of streamed sources; steps come in order, and a state goes on where it was taken.

    Each crop's source is drawn with its weight, as `datasets.interleave_datasets` does with `probabilities`. A source
    that ends begins again, newly shuffled, and the mixture never ends: small sources with large weights are repeated
    (`stopping_strategy="all_exhausted"` without the stop). A weight is a share of crops, hence of seconds: hours as
    weights pass over every source equally often. Within each source an epoch gives every clip to exactly one of all
    ranks and workers, see [`CropStream`]; ranks finish their epochs at different steps.

    `crops[step]` reads on up to `step`. The last `read_ahead` batches are kept, so that one may look so many steps
    ahead and come back (k-means of the codebooks does), and a state can be taken at any of them.

    Args:
        sources (sequence of [`StreamSource`]): At least one, with the same mapped columns.
        crop_samples (`int`): Length of a crop; shorter clips are padded with zeros at the end.
        batch_size (`int`): Crops a rank gets at each step.
        sampling_rate (`int`, *optional*, defaults to 16000): In Hz.
        seed (`int`, *optional*, defaults to 0): Seed, >= 0, the same on all ranks.
        rank (`int`, *optional*, defaults to 0): Index of this process.
        world_size (`int`, *optional*, defaults to 1): Number of processes.
        num_workers (`int`, *optional*, defaults to 0): Processes that read in the background; 0 reads when asked.
        read_ahead (`int`, *optional*, defaults to 0): Batches kept.
        stream_options: `buffer_size`, `crops_per_clip`, `gain_db`, `min_samples`, `max_bad_share` and `min_opened` of
            [`CropStream`], for all sources.

    Raises:
        `ValueError`: an argument is out of range, or a source cannot be streamed.
        `TooManyBadClipsError`: while reading, more clips of a source than `max_bad_share` cannot be read.
        `ConnectionError`: while reading, a remote file cannot be fetched.
    """

    def __init__(
        self,
        sources: Sequence[StreamSource],
        crop_samples: int,
        batch_size: int,
        sampling_rate: int = 16_000,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        read_ahead: int = 0,
        **stream_options,
    ):
        if not sources:
            raise ValueError("`sources` is empty")
        for source in sources:
            if not source.weight > 0:
                raise ValueError(f"`weight` of {source.label} must be above 0, got {source.weight}")
        columns = [sorted(source.column_map or {"audio": "audio"}) for source in sources]
        if any(names != columns[0] for names in columns):
            raise ValueError(f"`column_map` must name the same columns in all sources, got {columns}")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("world_size", world_size, 1),
            ("num_workers", num_workers, 0),
            ("read_ahead", read_ahead, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be 0 to {world_size - 1}, got {rank}")
        opened_sources = [(s, open_stream(s.source, s.split, s.column_map, s.config_name)) for s in sources]

        def streams(consumer: int, consumers: int) -> list[CropStream]:
            return [
                CropStream(
                    rows,
                    crop_samples,
                    source.column_map,
                    sampling_rate,
                    seed=seed,
                    consumer=consumer,
                    num_consumers=consumers,
                    label=source.label,
                    **stream_options,
                )
                for source, rows in opened_sources
            ]

        streams(0, 1)  # checks the options here rather than in a worker
        self.num_workers = num_workers
        self.read_ahead = read_ahead
        self.layout = {"world_size": world_size, "num_workers": num_workers, "rank": rank}
        weights = [source.weight for source in sources]
        self._mixture = (streams, weights, batch_size, crop_samples, seed, rank, world_size, max(num_workers, 1))
        self._restart(0, [None] * max(num_workers, 1))

    def _restart(self, step: int, states: list) -> None:
        self._states = states  # of each worker, before the first batch kept
        self._kept = deque()  # (batch, worker, its state after it), of steps `_oldest`, `_oldest` + 1, ...
        self._oldest = step
        self._batches = None

    def __getitem__(self, step: int) -> dict:
        """
        The batch of a step, not more than `read_ahead` before the last that was asked for.

        Returns:
            `dict`: `input_values` `[B, 1, crop_samples]` float32; `padding_mask` `[B, crop_samples]` bool, true on
            samples of the clip; `start` `[B]` int64, in samples; `name` and the other mapped columns, lists of B.
        """
        if step < self._oldest:
            raise ValueError(f"`step` must be at least {self._oldest}, what comes before is gone, got {step}")
        while self._oldest + len(self._kept) <= step:
            self._read()
        batch = self._kept[step - self._oldest][0]
        while self._oldest < step - self.read_ahead:
            _, worker, state = self._kept.popleft()
            self._states[worker] = state
            self._oldest += 1
        return batch

    def _read(self) -> None:
        step = self._oldest + len(self._kept)
        workers = max(self.num_workers, 1)
        if self._batches is None:
            mixture = _Mixture(*self._mixture, list(self._states), step % workers)
            if self.num_workers:
                mixture = torch.utils.data.DataLoader(
                    mixture,
                    batch_size=None,
                    num_workers=self.num_workers,
                    collate_fn=_as_it_is,
                    generator=torch.Generator(),  # else it takes a number from the run's own random state
                )
            self._batches = iter(mixture)
        batch, state = next(self._batches)
        if state is None:
            raise batch
        self._kept.append((batch, step % workers, state))

    def counts(self) -> dict[str, int]:
        """Clips met by this rank, and those of them that were bad or too short, up to the last batch read."""
        states = list(self._states)
        for _, worker, state in self._kept:
            states[worker] = state
        sources = [source["counts"] for state in states if state is not None for source in state["sources"]]
        return {f"{name}_clips": sum(source[name] for source in sources) for name in ("opened", "bad", "short")}

    def state_dict(self, step: int) -> dict:
        """
        What `load_state_dict` needs to go on with the batch of `step`; numbers and strings only, for JSON.

        Raises:
            `ValueError`: that step is gone, or not reached.
        """
        if not self._oldest <= step <= self._oldest + len(self._kept):
            raise ValueError(f"`step` must be {self._oldest} to {self._oldest + len(self._kept)}, got {step}")
        states = list(self._states)
        for _, worker, state in list(self._kept)[: step - self._oldest]:
            states[worker] = state
        return {**self.layout, "step": step, "workers": states}

    def load_state_dict(self, state: dict) -> None:
        """
        Goes on where a rank with the same arguments was.

        Raises:
            `ValueError`: the state is that of another rank, or of other numbers of processes or workers.
        """
        for name, mine in self.layout.items():
            if state[name] != mine:
                raise ValueError(f"`{name}` must be {state[name]}, as it was when the state was saved, got {mine}")
        self._restart(state["step"], list(state["workers"]))


def _as_it_is(item):
    return item
