"""How much of its codebooks a tokenizer uses: usage, perplexity and entropy rate, one value a codebook."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CodebookUsage:
    """
    Args:
        usage (`np.ndarray` [Q]): Share of the K entries that occur at least once, 0 to 1.
        perplexity (`np.ndarray` [Q]): exp of the entropy in nats: 1 (one entry only) to K (all equally often).
        entropy (`np.ndarray` [Q]): In bits a code, 0 to log2 K.
        num_frames (`np.ndarray` [Q]): Codes counted.
    """

    usage: np.ndarray
    perplexity: np.ndarray
    entropy: np.ndarray
    num_frames: np.ndarray

    def entropy_rate(self, frame_rate: float) -> np.ndarray:
        """
        Bits a second that an ideal memoryless entropy coder would need for each codebook, [Q]; their sum is what the
        code costs when dependencies between codebooks and between frames are not used, and is at most the nominal
        `frame_rate * Q * log2 K`.

        Args:
            frame_rate (`float`): Frames a second.
        """
        if not frame_rate > 0:
            raise ValueError(f"`frame_rate` must be positive, in Hz, got {frame_rate}")
        return self.entropy * frame_rate


def count_codes(codes: Iterable, codebook_size: int) -> np.ndarray:
    """
    Args:
        codes (iterable of array [Q, F]): Codes of each clip without padding, integers in [0, codebook_size). A CPU
            tensor is an array.
        codebook_size (`int`): K.

    Returns:
        `np.ndarray` [Q, K]: How often each entry occurs in all clips together, int64.

    Raises:
        ValueError: There are no clips, a shape is not [Q, F] with the same Q, or a code is not such an integer.
    """
    counts = None
    for index, clip in enumerate(codes):
        clip = np.asarray(clip)
        if clip.ndim != 2 or (counts is not None and clip.shape[0] != len(counts)):
            raise ValueError(f"`codes`: clip {index} must have shape [Q, F] with one Q, got {list(clip.shape)}")
        if not np.issubdtype(clip.dtype, np.integer):
            raise ValueError(f"`codes`: clip {index} must hold integers, got {clip.dtype}")
        if clip.size and not 0 <= clip.min() <= clip.max() < codebook_size:
            raise ValueError(
                f"`codes`: clip {index} must be in [0, {codebook_size}), got {clip.min()} to {clip.max()}"
            )
        if counts is None:
            counts = np.zeros((len(clip), codebook_size), dtype=np.int64)
        counts += np.stack([np.bincount(layer, minlength=codebook_size) for layer in clip])
    if counts is None:
        raise ValueError("`codes` holds no clips")
    return counts


def codebook_usage(counts) -> CodebookUsage:
    """
    With p_k = count_k / sum count, per codebook:

        usage = |{k : p_k > 0}| / K    entropy = - sum_k p_k log2 p_k    perplexity = 2^entropy

    Everything is taken from the counts of all clips together. With fewer codes than a few times K all of it is too low:
    n codes cannot use more than n entries. Compare systems on the same clips only.

    Args:
        counts (array [Q, K]): How often each entry occurs, see [`count_codes`]. A CPU tensor is an array.

    Returns:
        [`CodebookUsage`]

    Raises:
        ValueError: The shape is not [Q, K], a count is negative or not finite, or a codebook has no codes at all.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 2:
        raise ValueError(f"`counts` must have shape [Q, K], got {list(counts.shape)}")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("`counts` must be finite and not negative")
    totals = counts.sum(axis=1, keepdims=True)
    if not totals.all():
        raise ValueError(f"`counts`: codebook {int(np.argmin(totals))} has no codes")
    probabilities = counts / totals
    # 0 log 0 is 0, by continuity; adding 0 turns the -0 of a single entry into 0.
    logarithms = np.log2(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    entropy = -(probabilities * logarithms).sum(axis=1) + 0.0
    return CodebookUsage(
        usage=(counts > 0).mean(axis=1), perplexity=2**entropy, entropy=entropy, num_frames=totals[:, 0].astype(int)
    )
