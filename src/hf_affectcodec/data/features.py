"""
Teacher features computed beforehand, held in memory: the frames of a crop are a slice of the whole clip's.

`training/extract_features.py` writes the folder that [`TeacherFeatures.load`] reads.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch


class TeacherFeatures:
    """
    Features of the clips of a data set, float16, by teacher and clip name.

    A minute of one teacher with 768 channels takes 4.6 MB.

    Args:
        values (`Mapping[str, Mapping[str, np.ndarray]]`): By teacher, by clip name: `[F, C]` frames or `[n, C]` tokens.
        num_samples (`Mapping[str, int]`): Length of each clip in samples at `sampling_rate`.
        token_teachers (sequence of `str`, *optional*): The teachers whose vectors are word pieces.
        statistics (`Mapping[str, dict]`, *optional*): By teacher: `mean` and `std`, `C` numbers each. The features of
            the teachers named here are z-scored with them.
        hop_length (`int`, *optional*, defaults to 320): Samples a frame.
        sampling_rate (`int`, *optional*, defaults to 16000): In Hz.

    Raises:
        ValueError: A clip lacks a teacher, or has another number of frames than its length says.
    """

    def __init__(
        self,
        values: Mapping[str, Mapping[str, np.ndarray]],
        num_samples: Mapping[str, int],
        token_teachers: Sequence[str] = (),
        statistics: Mapping[str, dict] | None = None,
        hop_length: int = 320,
        sampling_rate: int = 16_000,
    ):
        self.values = values
        self.num_samples = num_samples
        self.token_teachers = frozenset(token_teachers)
        self.hop_length = hop_length
        self.sampling_rate = sampling_rate
        self._scale = {
            teacher: (np.asarray(numbers["mean"], np.float32), np.asarray(numbers["std"], np.float32))
            for teacher, numbers in (statistics or {}).items()
        }
        unknown = sorted((self._scale.keys() | self.token_teachers) - values.keys())
        if unknown:
            raise ValueError(f"`statistics` or `token_teachers` name {unknown}; there are {sorted(values)}")
        for teacher, clips in values.items():
            for name, samples in num_samples.items():
                if name not in clips:
                    raise ValueError(f"`values`: {teacher!r} lacks the clip {name!r}")
                frames = -(-samples // hop_length)
                if teacher not in self.token_teachers and len(clips[name]) != frames:
                    raise ValueError(
                        f"`values`: {teacher!r} has {len(clips[name])} frames of {name!r}, {samples} samples have {frames}"
                    )

    @classmethod
    def load(
        cls,
        folder: "str | os.PathLike",
        teachers: Sequence[str] | None = None,
        standardize: Sequence[str] = (),
        statistics: "str | os.PathLike | None" = None,
    ) -> "TeacherFeatures":
        """
        Reads a folder of `training/extract_features.py` into memory.

        Args:
            folder (`str` or `os.PathLike`): Folder with `manifest.json` and the Parquet files that it names.
            teachers (sequence of `str`, *optional*): Those to read; all by default.
            standardize (sequence of `str`, *optional*): Teachers to z-score, with the mean and standard deviation of all
                frames of the set.
            statistics (`str` or `os.PathLike`, *optional*): Folder to take mean and standard deviation from instead: a
                validation set is scaled as the training set is.

        Raises:
            ImportError: pyarrow is missing (`pip install hf-affectcodec[train]`).
            ValueError: There is no manifest (extraction has not finished), no such teacher, or a file does not fit.
        """
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImportError("reading features needs `pyarrow`: pip install hf-affectcodec[train]") from error

        manifest = read_manifest(folder)
        teachers = list(manifest["teachers"]) if teachers is None else list(teachers)
        for argument, names in (("teachers", teachers), ("standardize", standardize)):
            unknown = sorted(set(names) - set(manifest["teachers"]))
            if unknown:
                raise ValueError(f"`{argument}`: {folder} has no {unknown}, it has {sorted(manifest['teachers'])}")
        values = {teacher: {} for teacher in teachers}
        num_samples = {}
        for shard in manifest["shards"]:
            table = pq.read_table(Path(folder) / shard["file"], columns=["name", "num_samples", *teachers])
            names = table["name"].to_pylist()
            num_samples.update(zip(names, table["num_samples"].to_pylist(), strict=True))
            for teacher in teachers:
                size = manifest["teachers"][teacher]["feature_size"]
                values[teacher].update(zip(names, _arrays(table[teacher], size), strict=True))
        scales = read_manifest(folder if statistics is None else statistics)["statistics"]
        return cls(
            values,
            num_samples,
            [teacher for teacher in teachers if manifest["teachers"][teacher]["kind"] == "tokens"],
            {teacher: scales[teacher] for teacher in standardize},
            manifest["hop_length"],
            manifest["sampling_rate"],
        )

    def __contains__(self, name: str) -> bool:
        return name in self.num_samples

    def crop(self, name: str, start: int = 0, num_samples: int | None = None) -> dict[str, np.ndarray]:
        """
        The features of a crop: exactly the frames that the whole clip had there.

        Tokens have no times of their own. Algorithm 1 of arXiv 2605.11098 spreads n of them evenly over F frames, frame t
        (from 1) around token `clip(floor(t * n / F), 1, n)`; a crop gets the tokens that its frames have in the whole clip.

        Args:
            name (`str`): Clip.
            start (`int`, *optional*, defaults to 0): First sample, a multiple of `hop_length`.
            num_samples (`int`, *optional*): Length, >= 1; by default, and where it leads out, up to the clip's end.

        Returns:
            `dict[str, np.ndarray]`: By teacher `[F, C]` or `[n, C]`, float32.

        Raises:
            ValueError: The clip is unknown, or `start` is no multiple of the hop or lies past the end.
        """
        if name not in self.num_samples:
            raise ValueError(f"`name`: there are no features of {name!r}")
        total = self.num_samples[name]
        if start % self.hop_length or not 0 <= start < total:
            raise ValueError(
                f"`start` must be a multiple of {self.hop_length} in 0..{total - 1}, got {start} ({name!r})"
            )
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"`num_samples` must be at least 1, got {num_samples}")
        end = total if num_samples is None else min(total, start + num_samples)
        first, last, frames = start // self.hop_length, -(-end // self.hop_length), -(-total // self.hop_length)
        crops = {}
        for teacher, clips in self.values.items():
            whole = clips[name]
            if teacher in self.token_teachers:
                n = len(whole)
                part = whole[max((first + 1) * n // frames, 1) - 1 : max(last * n // frames, 1)]
            else:
                part = whole[first:last]
            crops[teacher] = part.astype(np.float32)
            if teacher in self._scale:
                mean, std = self._scale[teacher]
                crops[teacher] = (crops[teacher] - mean) / std
        return crops

    def batch(self, names: Sequence[str], starts: Sequence[int], num_samples: int) -> dict[str, torch.Tensor]:
        """
        The crops of a batch, padded with zeros: clips shorter than the crop at their end, as `RandomCrops` pads audio.

        Args:
            names (sequence of `str`): B clips.
            starts (sequence of `int`): First sample of each crop, multiples of `hop_length`.
            num_samples (`int`): Length of the crops.

        Returns:
            `dict[str, torch.Tensor]`: By teacher `[B, F, C]` with `F = ceil(num_samples / hop_length)`, or `[B, n, C]` for
            tokens, float32; `frame_mask` `[B, F]`, bool, true on frames of the clip; and for each teacher of tokens
            `<teacher>_lengths` `[B]`, int64.
        """
        crops = [self.crop(name, int(start), num_samples) for name, start in zip(names, starts, strict=True)]
        frames = -(-num_samples // self.hop_length)
        result = {}
        for teacher in self.values:
            items = [crop[teacher] for crop in crops]
            lengths = [len(item) for item in items]
            tokens = teacher in self.token_teachers
            padded = np.zeros((len(items), max(lengths) if tokens else frames, items[0].shape[1]), np.float32)
            for row, item in zip(padded, items, strict=True):
                row[: len(item)] = item
            result[teacher] = torch.from_numpy(padded)
            if tokens:
                result[f"{teacher}_lengths"] = torch.tensor(lengths, dtype=torch.long)
        ends = [
            min(self.num_samples[name] - int(start), num_samples) for name, start in zip(names, starts, strict=True)
        ]
        valid = torch.tensor([-(-end // self.hop_length) for end in ends])
        result["frame_mask"] = torch.arange(frames) < valid[:, None]
        return result


def read_manifest(folder: "str | os.PathLike") -> dict:
    """
    The manifest of a folder of features.

    Raises:
        ValueError: There is none: no such folder, or extraction has not finished.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise ValueError(f"{path}: no manifest; extraction has not finished there")
    return json.loads(path.read_text(encoding="utf-8"))


def _arrays(column, size: int) -> list[np.ndarray]:
    """A column of lists of fixed-size lists of float16 to arrays [F, C] that share one block of memory a chunk."""
    arrays = []
    for chunk in column.chunks:
        if chunk.type.value_type.list_size != size:
            raise ValueError(
                f"`folder`: a file has {chunk.type.value_type.list_size} channels, its manifest says {size}"
            )
        # `flatten` heeds the offset of a sliced chunk, `values` does not
        flat = chunk.flatten().flatten().to_numpy().reshape(-1, size)
        offsets = np.concatenate([[0], np.cumsum(chunk.value_lengths().to_numpy())]).astype(int)
        arrays += [flat[begin:end] for begin, end in zip(offsets[:-1], offsets[1:], strict=True)]
    return arrays
