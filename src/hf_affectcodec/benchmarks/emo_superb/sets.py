"""
The sets of EMO-SUPERB (Wu et al., arXiv 2402.13018): their partitions, and labels that several listeners gave.

The benchmark publishes its partitions and labels, not the speech. A corpus is a folder in its layout,

    CORPUS/Audios/*.wav
    CORPUS/Primary/config.json                  the classes, and what the partitions are called
    CORPUS/Primary/labels_consensus_1.csv       fold 1: file name, a column for each class, SpkrID, ..., Split_Set

with `Secondary` in place of `Primary` where listeners could choose several words. [`layout`](layout.py) lays other
labelled speech out in the same way.

A label is a distribution over C classes: shares of the listeners' votes, smoothed (see [`smoothed_labels`]). As in the
benchmark an item *has* a class where its share is above 1 / C, so that it may have several, and so is a prediction read.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_affectcodec.metrics.speaker_split import assert_speaker_disjoint


PARTITIONS = ("train", "dev", "test")
SMOOTHING = 0.05


@dataclass(frozen=True)
class EmotionSet:
    """
    Args:
        path (`str`): `CORPUS/Primary` or `CORPUS/Secondary` under the root of the data.
        title (`str`): Name in a table.
        num_classes (`int`): Classes.
        num_folds (`int`): Folds of the cross-validation; 1 where the corpus has an official partition.
    """

    path: str
    title: str
    num_classes: int
    num_folds: int


# Which label set of those with two stands behind Table 3 of arXiv 2605.11098 is not stated there.
OFFICIAL_SETS = (
    EmotionSet("IEMOCAP/Secondary", "IEMOCAP", 9, 5),
    EmotionSet("CREMA-D/Primary", "CREMA-D", 6, 5),
    EmotionSet("IMPROV/Primary", "MSP-IMPROV (P)", 4, 6),
    EmotionSet("IMPROV/Secondary", "MSP-IMPROV (S)", 10, 6),
    EmotionSet("PODCAST/Primary", "MSP-PODCAST (P)", 8, 1),
    EmotionSet("PODCAST/Secondary", "MSP-PODCAST (S)", 16, 1),
    EmotionSet("NNIME/Secondary", "BIIC-NNIME", 11, 5),
    EmotionSet("BIIC_PODCAST/Primary", "BIIC-PODCAST (P)", 8, 1),
    EmotionSet("BIIC_PODCAST/Secondary", "BIIC-PODCAST (S)", 16, 1),
)


@dataclass(frozen=True)
class Partition:
    """
    Clips of one side of a fold, sorted by name.

    Args:
        names (`list[str]`): File names under `Audios`.
        labels (`np.ndarray` [N, C]): Distributions over the classes.
        speakers (`list[str]`): Speaker of each clip.
    """

    names: list[str]
    labels: np.ndarray
    speakers: list[str]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Fold:
    """Classes in order, and the three sides of a fold."""

    classes: list[str]
    train: Partition
    dev: Partition
    test: Partition


def read_fold(folder: "str | Path", fold: int, check_speakers: bool = True) -> Fold:
    """
    Reads `labels_consensus_<fold>.csv` and `config.json` of a folder.

    Args:
        folder (`str` or `Path`): `CORPUS/Primary` or the like.
        fold (`int`): From 1.
        check_speakers (`bool`, *optional*, defaults to `True`): Fails where a speaker is on two sides. A corpus that
            calls all unknown voices by one name cannot pass; whoever switches this off has to know why.

    Returns:
        [`Fold`]

    Raises:
        ValueError: A file is missing or lacks a column, a label is no distribution, a side is empty, or sides share a
            speaker.
    """
    folder = Path(folder)
    table, config = folder / f"labels_consensus_{fold}.csv", folder / "config.json"
    for path in (config, table):
        if not path.is_file():
            raise ValueError(f"`folder`: there is no {path}")
    settings = json.loads(config.read_text(encoding="utf-8"))
    classes = settings["categorical"]["emo_type"]
    sides = {settings["data_split_type"][name]: name for name in PARTITIONS}

    rows = {name: [] for name in PARTITIONS}
    with open(table, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        missing = sorted({*classes, "SpkrID"} - set(columns))
        if missing:
            raise ValueError(f"`folder`: {table.name} has no columns {missing}")
        # The first and the last column go by several names.
        name_column, side_column = columns[0], columns[-1]
        for number, row in enumerate(reader, start=2):
            if row[side_column] not in sides:
                raise ValueError(f"`folder`: {table.name}, line {number}: {row[side_column]!r} is no partition")
            rows[sides[row[side_column]]].append(row)

    partitions = {}
    for name, lines in rows.items():
        if not lines:
            raise ValueError(f"`folder`: {table.name} has no {name} clips")
        lines.sort(key=lambda row: row[name_column])
        labels = np.array([[float(row[emotion]) for emotion in classes] for row in lines])
        # The published shares are rounded.
        wrong = (labels < 0).any(axis=1) | (abs(labels.sum(axis=1) - 1) > 0.01)
        if wrong.any():
            clip = lines[int(np.argmax(wrong))][name_column]
            raise ValueError(f"`folder`: {table.name}: the label of {clip} is no distribution")
        partitions[name] = Partition([row[name_column] for row in lines], labels, [row["SpkrID"] for row in lines])
    if check_speakers:
        for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
            assert_speaker_disjoint(partitions[first].speakers, partitions[second].speakers)
    return Fold(classes, **partitions)


def smoothed_labels(votes: np.ndarray, smoothing: float = SMOOTHING) -> np.ndarray:
    """
    The benchmark's smoothing, found from its published tables: a share s of the votes becomes

        s (1 - smoothing - r) + r    with r = smoothing / (C - 1)

    so that a clip that all listeners called one class gets .95 there, and no class gets 0.

    Args:
        votes (array [N, C]): Votes for each class, of one listener or more.
        smoothing (`float`, *optional*, defaults to 0.05): In [0, 1).

    Returns:
        `np.ndarray` [N, C]: Distributions.
    """
    votes = np.asarray(votes, dtype=np.float64)
    rest = smoothing / (votes.shape[1] - 1)
    return votes / votes.sum(axis=1, keepdims=True) * (1 - smoothing - rest) + rest


def has_class(distributions: np.ndarray) -> np.ndarray:
    """Which classes an item has, [N, C] of 0 and 1: those whose share is above 1 / C."""
    return (np.asarray(distributions) > 1 / distributions.shape[1]).astype(int)
