"""Embeddings of clips in rows of a table."""

from collections.abc import Callable

import numpy as np

from .codecs import SAMPLING_RATE


DIGITS = 7  # significant ones kept: float32 has no more


def embedding_row(embed: Callable, waveform: np.ndarray, stage: str) -> dict:
    """
    Args:
        embed (`Callable`): `(waveform [T], sampling_rate) -> [C]`; a ValueError says that the clip has no embedding.
        waveform (`np.ndarray` [T]): At 16 kHz.
        stage (`str`): What failed, if it does.

    Returns:
        `dict`: `embedding`, a list of C numbers or `None`, and `failures`.
    """
    try:
        embedding = np.asarray(embed(waveform, SAMPLING_RATE), dtype=np.float64)
        if not np.isfinite(embedding).all() or not embedding.any():
            raise ValueError("`waveform`: its embedding is zero or not finite")
    except ValueError as error:
        return {"embedding": None, "failures": {stage: str(error)}}
    return {"embedding": [float(f"{value:.{DIGITS}g}") for value in embedding], "failures": {}}


def stack_embeddings(rows: list[dict]) -> np.ndarray:
    """[N, C] of N rows; a row of NaN where there is none. C is 1 where no clip has one."""
    size = max((len(row["embedding"]) for row in rows if row["embedding"] is not None), default=1)
    return np.array([np.full(size, np.nan) if row["embedding"] is None else row["embedding"] for row in rows])


def paired_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine [N] of each row of `first` [N, C] and `second` [N, C], NaN where either is missing."""
    if first.shape[1] != second.shape[1]:  # all of one side are missing
        return np.full(len(first), np.nan)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.clip((first * second).sum(axis=1) / norms, -1.0, 1.0)
