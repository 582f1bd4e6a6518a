"""One consumer's crops of one streamed source, with a state of a few numbers from which the same crops come again."""

import copy
import itertools
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from ..audio import AudioFileError
from .error_text import first_line
from .streamed_clips import StreamedClip


logger = logging.getLogger(__name__)
NAMED_CLIPS = 5  # bad clips that an error and a state name


class TooManyBadClipsError(RuntimeError):
    """More clips than allowed could not be read. The message is one line with the rate and the first of them."""


@dataclass
class ClipCounts:
    """
    Attributes:
        opened (`int`): Clips met, those below among them; each time an epoch meets them.
        bad (`int`): Clips that could not be read.
        short (`int`): Clips shorter than the least length, left out.
        first_bad (`list[str]`): What is wrong with the first bad ones, a line each.
    """

    opened: int = 0
    bad: int = 0
    short: int = 0
    first_bad: list[str] = field(default_factory=list)


@dataclass
class _Position:
    """The next clip that a consumer reads, and how many of its crops were already taken."""

    epoch: int = 0
    part: int = 0
    row: int = 0
    taken: int = 0


class CropStream:
    """
    Crops of one source, epoch after epoch: one consumer's part of them.

    In an epoch each clip is read by exactly one consumer. Shards (files) are dealt out in an order that each epoch
    draws anew, whole as long as every consumer gets one; the clips of those left over, all of them where there are
    fewer shards than consumers, are dealt out one by one, and each consumer reads past those of the others.

    A clip of n crop lengths gives floor(n) crops that do not overlap, a shorter one a single crop padded with zeros;
    where they begin is drawn anew in each epoch. Crops are shuffled in blocks of `buffer_size`: as many are planned
    ahead (headers and compressed bytes are read, nothing is decoded), put in random order and decoded one by one. A
    state says where the block began and how many of its crops were given out, so that a resumed stream is exactly the
    unbroken one at the price of reading part of a block twice.

    A crop is decoded alone, by seeking, with as much context as the resampling filter reaches: it is the slice of the
    whole clip's waveform as [`load_audio`] gives it. Files that cannot be sought (AAC and what else libsndfile cannot
    read, MP3 that does not say how long it is) are decoded whole, once in a block; a warning names the first.

    A clip that cannot be read is skipped, counted and named in a warning.

    Args:
        rows (`datasets.IterableDataset`): Of [`open_stream`].
        crop_samples (`int`): Length of a crop.
        column_map (`dict[str, str]`, *optional*, defaults to `{"audio": "audio"}`): That of [`open_stream`]. Values of
            columns besides `audio` come along with each crop.
        sampling_rate (`int`, *optional*, defaults to 16000): In Hz.
        seed (`int`, *optional*, defaults to 0): Seed, >= 0, the same on all consumers.
        consumer (`int`, *optional*, defaults to 0): Index of this consumer.
        num_consumers (`int`, *optional*, defaults to 1): Ranks times workers.
        epochs (`int`, *optional*): Ends after so many; by default it goes on for ever.
        buffer_size (`int`, *optional*, defaults to 512): Crops in a block.
        crops_per_clip (`int`, *optional*): At most so many of a clip in an epoch; by default all that there are.
        gain_db (`tuple[float, float]`, *optional*): Range in dB that each crop's gain is drawn from, evenly; a gain
            stops where the crop's peak would pass 1.
        min_samples (`int`, *optional*, defaults to 1): Clips shorter than this are left out and counted.
        max_bad_share (`float`, *optional*, defaults to 0.05): Share of bad clips above which the stream stops, once
            `min_opened` were met.
        min_opened (`int`, *optional*, defaults to 100): See there.
        label (`str`, *optional*, defaults to `"stream"`): What errors call the source.

    Raises:
        `ValueError`: an argument is out of range.
        `TooManyBadClipsError`: while iterating, see `max_bad_share`.
        `ConnectionError`: while iterating, a remote shard or clip cannot be fetched.
    """

    def __init__(
        self,
        rows,
        crop_samples: int,
        column_map: dict[str, str] | None = None,
        sampling_rate: int = 16_000,
        seed: int = 0,
        consumer: int = 0,
        num_consumers: int = 1,
        epochs: int | None = None,
        buffer_size: int = 512,
        crops_per_clip: int | None = None,
        gain_db: tuple[float, float] | None = None,
        min_samples: int = 1,
        max_bad_share: float = 0.05,
        min_opened: int = 100,
        label: str = "stream",
    ):
        for name, value, least in (
            ("crop_samples", crop_samples, 1),
            ("seed", seed, 0),
            ("num_consumers", num_consumers, 1),
            ("buffer_size", buffer_size, 1),
            ("crops_per_clip", 1 if crops_per_clip is None else crops_per_clip, 1),
            ("min_samples", min_samples, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")
        if not 0 <= consumer < num_consumers:
            raise ValueError(f"`consumer` must be 0 to {num_consumers - 1}, got {consumer}")
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"`max_bad_share` must be in 0..1, got {max_bad_share}")
        taken = {"values", "name", "start", "input_values", "padding_mask"} & set(column_map or {})
        if taken:
            raise ValueError(f"`column_map` must not use {sorted(taken)}, which crops and batches have of their own")
        if gain_db is not None and not gain_db[0] <= gain_db[1]:
            raise ValueError(f"`gain_db` must be (lowest, highest) in dB, got {gain_db}")
        self.rows = rows
        self.crop_samples = crop_samples
        self.column_map = {"audio": "audio"} if column_map is None else column_map
        self.sampling_rate = sampling_rate
        self.seed = seed
        self.consumer = consumer
        self.num_consumers = num_consumers
        self.epochs = epochs
        self.buffer_size = buffer_size
        self.crops_per_clip = crops_per_clip
        self.gain_db = gain_db
        self.min_samples = min_samples
        self.max_bad_share = max_bad_share
        self.min_opened = min_opened
        self.label = label
        self.counts = ClipCounts()
        self._num_shards = rows.num_shards
        self._told_of_whole = False
        self._begin(_Position(), 0)

    def __iter__(self) -> "CropStream":
        return self

    def __next__(self) -> dict:
        """
        Returns:
            `dict`: `values` `[n]` float32 with n up to `crop_samples`, `name`, `start` (first sample in the clip, at
            the rate of the crops), and the other columns.
        """
        while True:
            if self._given == len(self._crops):
                self._next_block()
            place = self._order[self._given]
            self._given += 1
            index, start = self._crops[place]
            if index in self._failed:
                continue
            clip, columns = self._clips[index]
            try:
                values = clip.crop(start, self.crop_samples)
            except AudioFileError as error:
                self._failed.append(index)
                self._add_bad(str(error))
                continue
            if self.gain_db is not None:
                low, high = self.gain_db
                gain = 10 ** ((low + self._draws[place] * (high - low)) / 20)
                values *= min(gain, 1 / max(float(np.abs(values).max()), 1e-9))
            return {**columns, "values": values, "name": clip.name, "start": start}

    @property
    def epoch(self) -> int:
        """Epoch of the last crop, from 0."""
        return self._first.epoch

    def state_dict(self) -> dict:
        """What `load_state_dict` needs to go on with the next crop; numbers and strings only, for JSON."""
        return {
            "first": asdict(self._first),
            "block": self._block,
            "given": self._given,
            "failed": list(self._failed),
            "counts": asdict(self.counts),
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on where a stream with the same arguments was when it gave `state`; plans its block again."""
        self._begin(_Position(**state["first"]), state["block"])
        if state["given"]:
            self._plan(count=False)  # what its headers were found to be is in the counts already
            self._given = state["given"]
            self._failed = list(state["failed"])
        self.counts = ClipCounts(**copy.deepcopy(state["counts"]))

    # ----- blocks

    def _begin(self, first: "_Position", block: int) -> None:
        """Forgets what was planned; the block of number `block` in its epoch starts at `first`."""
        self._first = self._next = first
        self._block, self._planned = block, False
        self._clips, self._crops, self._order, self._draws = [], [], [], []
        self._given, self._failed = 0, []
        self._walk = None

    def _next_block(self) -> None:
        for _ in range(self.num_consumers + 1):  # where clips are fewer than consumers, some epochs have none for one
            if self._planned:
                self._block = self._block + 1 if self._next.epoch == self._first.epoch else 0
                self._first, self._planned = self._next, False
                self._clips, self._crops, self._given, self._failed = [], [], 0, []
            if self.epochs is not None and self._first.epoch >= self.epochs:
                raise StopIteration
            self._plan(count=True)
            if self._crops:
                return
        raise ValueError(
            f"{self.label}: nothing for consumer {self.consumer} of {self.num_consumers} in {self.num_consumers + 1} "
            f"epochs ({self.counts.opened} clips met, {self.counts.bad} bad, {self.counts.short} too short)"
        )

    def _plan(self, count: bool) -> None:
        """Reads headers from `_first` on until the block is full or the epoch at its end; draws the block's order."""
        if self._walk is None:
            self._walk = self._walk_epoch(self._first)
        for position, shard, row in self._walk:
            clip = self._open(position, shard, row, count)
            starts = [] if clip is None else self._starts(position, shard, clip.length)
            mine = starts[position.taken : position.taken + self.buffer_size - len(self._crops)]
            if mine:
                self._crops += [(len(self._clips), start) for start in mine]
                columns = {ours: row[theirs] for ours, theirs in self.column_map.items() if ours != "audio"}
                self._clips.append((clip, columns))
            taken = position.taken + len(mine)
            if taken < len(starts):
                self._next = replace(position, taken=taken)
                self._walk = itertools.chain([(self._next, shard, row)], self._walk)
                break
            if len(self._crops) == self.buffer_size:
                self._next = replace(position, row=position.row + 1, taken=0)
                break
        else:
            self._next, self._walk = _Position(self._first.epoch + 1), None
        random = np.random.default_rng(
            [self.seed, 1, self._first.epoch, self._block, self.consumer, self.num_consumers]
        )
        self._order = random.permutation(len(self._crops)).tolist()
        self._draws = random.random(len(self._crops))
        self._planned = True

    def _walk_epoch(self, first: "_Position") -> Iterator[tuple["_Position", int, dict]]:
        """This consumer's clips of an epoch from a position on: position, shard, row."""
        order = np.random.default_rng([self.seed, 2, first.epoch]).permutation(self._num_shards).tolist()
        whole = self._num_shards // self.num_consumers * self.num_consumers
        parts = [(shard, False) for shard in order[self.consumer : whole : self.num_consumers]]
        parts += [(shard, True) for shard in order[whole:]]
        for part, (shard, by_clip) in enumerate(parts[first.part :], first.part):
            begin = first.row if part == first.part else 0
            rows = self.rows.shard(self._num_shards, shard)
            try:
                # `iter`, because `for` in a worker of a DataLoader would give all of the shard to worker 0
                for row, values in enumerate((rows.skip(begin) if begin else rows).iter(1), begin):
                    if by_clip and (row + shard + first.epoch) % self.num_consumers != self.consumer:
                        continue
                    taken = first.taken if (part, row) == (first.part, first.row) else 0
                    position = _Position(first.epoch, part, row, taken)
                    yield position, shard, {key: item for key, (item,) in values.items()}
            except (HfHubHTTPError, HTTPError) as error:
                raise ConnectionError(
                    f"{self.label}: shard {shard} cannot be fetched ({first_line(error)})"
                ) from error

    def _starts(self, position: "_Position", shard: int, length: int) -> list[int]:
        """First samples of a clip's crops in this epoch; the same whoever reads it."""
        fitting = max(length // self.crop_samples, 1)
        random = np.random.default_rng([self.seed, 3, position.epoch, shard, position.row])
        offset = int(random.integers(max(length - fitting * self.crop_samples, 0) + 1))
        chosen = range(fitting)
        if self.crops_per_clip is not None and self.crops_per_clip < fitting:
            chosen = sorted(random.choice(fitting, self.crops_per_clip, replace=False).tolist())
        return [offset + index * self.crop_samples for index in chosen]

    # ----- clips

    def _open(self, position: "_Position", shard: int, row: dict, count: bool) -> StreamedClip | None:
        """The clip, or `None` for one that is bad or too short."""
        audio = row[self.column_map["audio"]]
        path = None if audio is None else audio["path"]
        name = f"{path or 'clip'} ({self.label}, shard {shard}, row {position.row})"
        count = count and position.taken == 0  # one whose crops fall into two blocks is met once
        self.counts.opened += int(count)
        try:
            clip = StreamedClip.open(audio, self.sampling_rate, name)
        except AudioFileError as error:
            if count:
                self._add_bad(str(error))
            return None
        if clip.length < self.min_samples:
            self.counts.short += int(count)
            return None
        if clip.waveform is not None and not self._told_of_whole:
            self._told_of_whole = True
            logger.warning(f"{name}: cannot be sought; it, and others of its kind, are decoded whole")
        return clip

    def _add_bad(self, reason: str) -> None:
        counts = self.counts
        counts.bad += 1
        if len(counts.first_bad) < NAMED_CLIPS:
            counts.first_bad.append(reason)
        logger.warning(f"{reason}; skipped, {counts.bad} of {counts.opened} clips so far")
        share = counts.bad / counts.opened
        if counts.opened >= self.min_opened and share > self.max_bad_share:
            raise TooManyBadClipsError(
                f"{self.label}: {counts.bad} of {counts.opened} clips ({share:.1%}) cannot be read, more than "
                f"{self.max_bad_share:.1%}; the first: {'; '.join(counts.first_bad)}"
            )
