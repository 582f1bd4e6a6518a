"""Training on a set of recordings that fits in memory: decode every clip once, then draw random crops from them.

[`load_clips`] reads any `datasets` audio set; [`RandomCrops`] makes batches, each a pure function of seed, step and
rank, so that a run is resumed by going on with the next step.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm

from ..audio import AudioFileError, load_audio


@dataclass
class Clips:
    """
    Recordings held in memory.

    Attributes:
        waveforms (`list[np.ndarray]`): One `[T]` int16 array a clip, full scale 32768.
        sampling_rate (`int`): Their rate in Hz.
        names (`list[str]`): What each clip is called in errors and tables: its path in the data set, or its row.
        columns (`dict[str, list]`): The other columns that were asked for, by our names.
    """

    waveforms: list[np.ndarray]
    sampling_rate: int
    names: list[str]
    columns: dict[str, list] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.waveforms)

    @property
    def seconds(self) -> float:
        """Length of all clips together in seconds."""
        return sum(len(waveform) for waveform in self.waveforms) / self.sampling_rate


def load_clips(
    source: "str | os.PathLike | Sequence[str | os.PathLike]",
    split: str = "train",
    column_map: dict[str, str] | None = None,
    sampling_rate: int = 16_000,
    config_name: str | None = None,
    progress: bool = True,
) -> Clips:
    """
    Decodes a split of a `datasets` audio set into memory (115 MB an hour at 16 kHz).

    Args:
        source (`str`, `os.PathLike` or a sequence of them): What `datasets.load_dataset` knows by name: a Hub id, a
            folder of Parquet files named by split, an audio folder. A name that ends in `.parquet` (`*` allowed), or
            a sequence of them, is read as Parquet files that make up `split`.
        split (`str`, *optional*, defaults to `"train"`): Split, in `datasets` syntax (`"train[:100]"`).
        column_map (`dict[str, str]`, *optional*, defaults to `{"audio": "audio"}`): Our column names to those of the
            set. `audio` must be among them; the others come back in `Clips.columns`.
        sampling_rate (`int`, *optional*, defaults to 16000): Rate in Hz to resample to.
        config_name (`str`, *optional*): Configuration of a set that has several.
        progress (`bool`, *optional*, defaults to `True`): Shows a bar.

    Returns:
        [`Clips`]

    Raises:
        `ImportError`: `datasets` is missing (`pip install hf-affectcodec[train]`).
        `ValueError`: no such source, split or column, or no rows.
        `AudioFileError`: a clip cannot be read; nothing is skipped.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("loading clips needs `datasets`: pip install hf-affectcodec[train]") from error

    column_map = {"audio": "audio"} if column_map is None else column_map
    if "audio" not in column_map:
        raise ValueError(f"`column_map` must name the column that is `audio`, got {column_map}")
    files = [source] if isinstance(source, str | os.PathLike) else list(source)
    files = [os.fspath(file) for file in files]
    shown = f"`source` = {files[0] if len(files) == 1 else files}, split {split!r}"
    try:
        if files and all(file.endswith(".parquet") for file in files):
            base = split.split("[")[0]
            rows = datasets.load_dataset("parquet", config_name, data_files={base: files}, split=split)
        elif len(files) == 1:
            rows = datasets.load_dataset(files[0], config_name, split=split)
        else:
            raise ValueError("a sequence must name Parquet files")
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{shown}: cannot be loaded ({reason})") from error
    missing = sorted(set(column_map.values()) - set(rows.column_names))
    if missing:
        raise ValueError(f"`column_map` names columns {missing}; {shown} has {rows.column_names}")

    theirs = column_map["audio"]
    rows = rows.select_columns(list(dict.fromkeys(column_map.values())))
    # our own loader, not `datasets`': it needs no torchcodec and says which file is bad
    rows = rows.cast_column(theirs, datasets.Audio(decode=False))
    clips = Clips([], sampling_rate, [], {ours: [] for ours in column_map if ours != "audio"})
    for index, row in enumerate(tqdm(rows, desc=f"decoding {split}", unit="clip", disable=not progress)):
        audio = row[theirs]
        if audio is None or (audio["bytes"] is None and audio["path"] is None):
            raise AudioFileError(f"{source}, row {index}: no audio")
        name = audio["path"] or f"row {index}"
        waveform = load_audio(audio["path"] if audio["bytes"] is None else audio["bytes"], sampling_rate, name=name)
        clips.waveforms.append((waveform[0] * 32768).round().clamp(-32768, 32767).short().numpy())
        clips.names.append(name)
        for ours, values in clips.columns.items():
            values.append(row[column_map[ours]])
    return clips


class RandomCrops(torch.utils.data.Dataset):
    """
    Batches of random crops; `crops[step]` is a pure function of `seed`, `step` and `rank`.

    There is no state: a run resumes at step s by asking for `crops[s]`. At each step one global batch of
    `batch_size * world_size` crops is drawn and rank r takes rows `r * batch_size` to `(r + 1) * batch_size`, so that
    the ranks together see what one process with the whole batch would. A clip is drawn with a probability
    proportional to its length, the start evenly among those that leave a full crop.

    To prepare batches in the background: `DataLoader(crops, batch_size=None, sampler=range(first, last),
    num_workers=2)`.

    Args:
        clips ([`Clips`] or a sequence of `np.ndarray`): Waveforms `[T]`, floating point, or int16 of full scale 32768.
        crop_samples (`int`): Length of a crop. Shorter clips are padded with zeros at the end.
        batch_size (`int`): Crops a rank gets at each step.
        seed (`int`, *optional*, defaults to 0): Seed, >= 0.
        rank (`int`, *optional*, defaults to 0): Index of this process.
        world_size (`int`, *optional*, defaults to 1): Number of processes.
        gain_db (`tuple[float, float]`, *optional*): Range in dB that each crop's gain is drawn from, evenly; a gain
            stops where the crop's peak would pass 1. `None` leaves the level alone.
        start_multiple (`int`, *optional*, defaults to 1): Crops start at multiples of this many samples. Crops that go
            with frame features computed on the whole clip start at multiples of the hop.

    Raises:
        `ValueError`: an argument is out of range, or there are no clips or an empty one.
    """

    def __init__(
        self,
        clips: "Clips | Sequence[np.ndarray]",
        crop_samples: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        gain_db: tuple[float, float] | None = None,
        start_multiple: int = 1,
    ):
        self.waveforms = clips.waveforms if isinstance(clips, Clips) else list(clips)
        if not self.waveforms:
            raise ValueError("`clips` is empty")
        for index, waveform in enumerate(self.waveforms):
            if waveform.ndim != 1 or waveform.size == 0:
                raise ValueError(f"`clips`: item {index} must have shape [T] with T > 0, got {list(waveform.shape)}")
            if waveform.dtype != np.int16 and not np.issubdtype(waveform.dtype, np.floating):
                raise ValueError(f"`clips`: item {index} must be int16 or floating point, got {waveform.dtype}")
        for name, value, least in (
            ("crop_samples", crop_samples, 1),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("world_size", world_size, 1),
            ("start_multiple", start_multiple, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be 0 to {world_size - 1}, got {rank}")
        if gain_db is not None and not gain_db[0] <= gain_db[1]:
            raise ValueError(f"`gain_db` must be (lowest, highest) in dB, got {gain_db}")
        self.crop_samples = crop_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.gain_db = gain_db
        self.start_multiple = start_multiple
        self._ends = np.cumsum([len(waveform) for waveform in self.waveforms])  # [clips], in samples

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        """
        The batch of a step.

        Args:
            step (`int`): Global step, >= 0; there is no last one.

        Returns:
            `dict`: `input_values` `[B, 1, crop_samples]` float32; `padding_mask` `[B, crop_samples]` bool, true on
            samples of the clip; `clip_index` `[B]` and `start` `[B]` (in samples), int64.
        """
        if step < 0:
            raise ValueError(f"`step` must be at least 0, got {step}")
        draws = np.random.default_rng([self.seed, step]).random((self.batch_size * self.world_size, 3))
        draws = draws[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        indices = np.searchsorted(self._ends, (draws[:, 0] * self._ends[-1]).astype(np.int64), side="right")

        values = np.zeros((self.batch_size, 1, self.crop_samples), np.float32)
        mask = np.zeros((self.batch_size, self.crop_samples), bool)
        starts = np.zeros(self.batch_size, np.int64)
        for row, index in enumerate(indices):
            waveform = self.waveforms[index]
            choices = max(len(waveform) - self.crop_samples, 0) // self.start_multiple + 1
            starts[row] = int(draws[row, 1] * choices) * self.start_multiple
            crop = waveform[starts[row] : starts[row] + self.crop_samples]
            out = values[row, 0, : len(crop)]
            np.multiply(crop, 1 / 32768 if crop.dtype == np.int16 else 1, out=out, casting="same_kind")
            mask[row, : len(crop)] = True
            if self.gain_db is not None:
                low, high = self.gain_db
                gain = 10 ** ((low + draws[row, 2] * (high - low)) / 20)
                out *= min(gain, 1 / max(np.abs(out).max(), 1e-9))
        return {
            "input_values": torch.from_numpy(values),
            "padding_mask": torch.from_numpy(mask),
            "clip_index": torch.from_numpy(indices.astype(np.int64)),
            "start": torch.from_numpy(starts),
        }
