"""
Lays labelled speech out like a set of EMO-SUPERB, with voices left out, so that the protocol runs on it:

    python -m hf_affectcodec.benchmarks.emo_superb.layout --data voices.parquet --label emotion --speaker speaker_id \
        --folds 6 --out data/EMO-SUPERB/VOICES

Every speaker is tested in one fold; the next fold's speakers are its development set, all others are trained on. A clip
has one label, smoothed as the benchmark smooths votes.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_affectcodec.audio import write_audio
from hf_affectcodec.data.clips import Clips, load_clips

from ..codecs import SAMPLING_RATE
from .sets import smoothed_labels


def speaker_folds(speakers: Sequence[str], num_folds: int) -> list[list[str]]:
    """
    Speakers dealt out to folds by their number of clips, largest first, always to the fold with the fewest clips.

    Args:
        speakers (sequence of `str`): Of each clip.
        num_folds (`int`): 3 or more, and no more than there are speakers.

    Returns:
        `list[list[str]]`: Names of each fold.
    """
    names, counts = np.unique(np.asarray(speakers), return_counts=True)
    if not 3 <= num_folds <= len(names):
        raise ValueError(f"`num_folds` must be from 3 to the number of speakers, {len(names)}, got {num_folds}")
    folds, sizes = [[] for _ in range(num_folds)], [0] * num_folds
    for index in np.argsort(-counts, kind="stable"):
        smallest = int(np.argmin(sizes))
        folds[smallest].append(str(names[index]))
        sizes[smallest] += int(counts[index])
    return folds


def write_layout(clips: Clips, out: "str | Path", num_folds: int) -> list[str]:
    """
    Args:
        clips ([`~hf_affectcodec.data.clips.Clips`]): With the columns `label` and `speaker`. Clips without a label
            are left out.
        out (`str` or `Path`): Folder to make: `Audios` and `Primary`.
        num_folds (`int`): See [`speaker_folds`].

    Returns:
        `list[str]`: The classes, sorted.
    """
    audio, labels = Path(out) / "Audios", Path(out) / "Primary"
    for folder in (audio, labels):
        folder.mkdir(parents=True, exist_ok=True)
    kept = [row for row, label in enumerate(clips.columns["label"]) if label is not None]
    classes = sorted({clips.columns["label"][row] for row in kept})
    names = [f"{row:05d}_{Path(clips.names[row]).stem}.wav" for row in kept]
    speakers = [str(clips.columns["speaker"][row]) for row in kept]
    votes = np.array([[clips.columns["label"][row] == name for name in classes] for row in kept], dtype=float)
    distributions = smoothed_labels(votes)
    for row, name in zip(kept, names, strict=True):
        write_audio(audio / name, clips.waveforms[row][None] / np.float32(32768), clips.sampling_rate)
    config = {
        "data_split_type": {"train": "Train", "dev": "Development", "test": "Test"},
        "categorical": {"emo_type": classes},
    }
    (labels / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    folds = speaker_folds(speakers, num_folds)
    for number, test in enumerate(folds):
        dev = folds[(number + 1) % num_folds]
        with open(labels / f"labels_consensus_{number + 1}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["FileName", *classes, "SpkrID", "Split_Set"])
            for name, label, speaker in zip(names, distributions, speakers, strict=True):
                side = "Test" if speaker in test else "Development" if speaker in dev else "Train"
                writer.writerow([name, *(f"{value:.6f}" for value in label), speaker, side])
    return classes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="emo_superb.layout", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--data", required=True, help="Parquet file with a column audio (bytes, path)")
    parser.add_argument("--label", required=True, help="column of the emotion; rows without one are left out")
    parser.add_argument("--speaker", required=True, help="column of the speaker")
    parser.add_argument("--folds", type=int, default=5, help="folds (default 5)")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args(arguments)
    columns = {"audio": "audio", "label": options.label, "speaker": options.speaker}
    clips = load_clips(options.data, column_map=columns, sampling_rate=SAMPLING_RATE)
    classes = write_layout(clips, options.out, options.folds)
    sys.stdout.write(f"{options.out}: {len(classes)} classes, {options.folds} folds\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
