"""What a table of codecs says beside its columns: bitrate, speed, lag."""

import math

import numpy as np

from .codecs import Original


def codec_facts(name: str, rows: list[dict]) -> dict:
    """
    Args:
        name (`str`): The system.
        rows (`list[dict]`): Its rows of the signal columns.

    Returns:
        `dict`: `n_coded` and `seconds` of the clips that were coded; `kbps`, all bits over all their seconds;
            `times_real_time` (NaN for the originals: copying a clip is not coding it); `median_lag` in samples, and
            `n_shifted`, the clips moved by theirs.
    """
    coded = [row for row in rows if row["bits"] is not None]
    seconds = sum(row["seconds"] for row in coded)
    codec_seconds = sum(row["codec_seconds"] for row in coded)
    lags = [row["lag"] for row in rows if row["lag"] is not None]
    return {
        "n_coded": len(coded),
        "seconds": round(seconds, 3),
        "kbps": sum(row["bits"] for row in coded) / seconds / 1000 if coded else math.nan,
        "times_real_time": seconds / codec_seconds if codec_seconds and name != Original.name else math.nan,
        "median_lag": float(np.median(lags)) if lags else math.nan,
        "n_shifted": sum(row["shift"] != 0 for row in rows),
    }


def add_codec_facts(table: dict, rows: list[list[dict]]) -> dict:
    """The same table with the facts of each system."""
    for (name, system), clips in zip(table["systems"].items(), rows, strict=True):
        system.update(codec_facts(name, clips))
    return table
