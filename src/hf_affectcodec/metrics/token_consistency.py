"""
Token consistency: whether the same sound gets the same codes when what surrounds it, or the frame grid, is changed.

A language model over codes has to predict them; where one sound has many codes, it cannot. Proposed by "Analyzing and
Mitigating Inconsistency in Discrete Audio Tokens" (arXiv 2409.19283), which finds first-codebook slice consistency of
47 % for EnCodec and 7 to 39 % for others. Slices and shifts here are our own choice, so values do not compare with
that paper's; compare systems under one setting.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .waveforms import check_audible, check_waveform


def _codes(encode: Callable, waveform: np.ndarray) -> np.ndarray:
    codes = np.asarray(encode(waveform.astype(np.float32)))
    if codes.ndim != 2 or 0 in codes.shape or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"`encode` must return integers [Q, F], got {codes.dtype} of shape {list(codes.shape)}")
    return codes


def _check_hop(hop_length: int):
    if hop_length < 1:
        raise ValueError(f"`hop_length` must be positive, in samples, got {hop_length}")


def slice_consistency(
    encode: Callable,
    waveform,
    hop_length: int,
    num_frames: int = 50,
    starts: Sequence[int] | None = None,
    margin: int = 0,
) -> np.ndarray:
    """
    Cuts slices of `num_frames` frames out of a clip, on its frame grid, encodes each alone, and compares with the codes
    that the same frames got inside the whole clip:

        c_q = mean over slices s and frames f of [ encode(x[s h : (s + n) h])_q[f] = encode(x)_q[s + f] ]

    1 means that a code does not depend on what is more than a frame away; two independent tokenizers that use K entries
    evenly agree by chance in 1 / K.

    Args:
        encode (`Callable`): `(waveform float32 [T]) -> codes [Q, F]`, integers; frame f stands for the samples
            `f * hop_length` to `(f + 1) * hop_length`. It is given every clip alone.
        waveform (array [T]): The clip.
        hop_length (`int`): h, samples a frame at the rate of `waveform`.
        num_frames (`int`, *optional*, defaults to 50): n, frames a slice: 1 s at 50 Hz.
        starts (sequence of `int`, *optional*): First frames s of the slices. By default they follow each other from 0
            without overlap for as long as they fit.
        margin (`int`, *optional*, defaults to 0): Frames left out at both ends of each slice, which shows how far the
            influence of the edges reaches.

    Returns:
        `np.ndarray` [Q]: Share of equal codes of each codebook, 0 to 1. Higher is better.

    Raises:
        ValueError: The waveform is not usable, is silent or holds no whole slice, `margin` leaves no frame, or `encode`
            gives something else than integers [Q, F] with a frame for each `hop_length` samples.
    """
    waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
    _check_hop(hop_length)
    if not 0 <= 2 * margin < num_frames:
        raise ValueError(f"`margin` must leave a frame of `num_frames` = {num_frames}, got {margin}")
    total = waveform.size // hop_length
    if starts is None:
        starts = range(0, total - num_frames + 1, num_frames)
    if len(starts) == 0:
        raise ValueError(f"`waveform` must have {num_frames} frames of {hop_length} samples or more, got {total}")
    if min(starts) < 0 or max(starts) + num_frames > total:
        raise ValueError(f"`starts` must be in [0, {total - num_frames}], got {min(starts)} to {max(starts)}")

    whole = _codes(encode, waveform)
    equal = []
    for start in starts:
        alone = _codes(encode, waveform[start * hop_length : (start + num_frames) * hop_length])
        within = whole[:, start : start + num_frames]
        # An encoder may add a frame for what it padded at the end, not lose one.
        if alone.shape[0] != whole.shape[0] or alone.shape[1] < num_frames or within.shape[1] < num_frames:
            raise ValueError(
                f"`encode` must return {num_frames} frames for {num_frames * hop_length} samples, got shapes"
                f" {list(alone.shape)} and {list(whole.shape)}"
            )
        kept = slice(margin, num_frames - margin)
        equal.append(alone[:, :num_frames][:, kept] == within[:, kept])
    return np.concatenate(equal, axis=1).mean(axis=1)


def shift_consistency(encode: Callable, waveform, hop_length: int, shift: int, margin: int = 0) -> np.ndarray:
    """
    Drops the first `shift` samples of a clip, encodes what is left, and compares frame by frame with the codes of the
    whole clip from frame `round(shift / hop_length)` on. Shifts by less than half a frame move the frame grid under a
    sound that hardly changes; shifts by whole frames take context away and nothing else.

    Args:
        encode (`Callable`): As for [`slice_consistency`].
        waveform (array [T]): The clip.
        hop_length (`int`): Samples a frame.
        shift (`int`): Samples dropped, 1 or more.
        margin (`int`, *optional*, defaults to 0): Frames left out at both ends.

    Returns:
        `np.ndarray` [Q]: Share of equal codes of each codebook, 0 to 1. Higher is better.

    Raises:
        ValueError: As for [`slice_consistency`]; or `shift` leaves no frame to compare.
    """
    waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
    _check_hop(hop_length)
    if shift < 1:
        raise ValueError(f"`shift` must be 1 sample or more, got {shift}")
    first = round(shift / hop_length)
    num_frames = min(waveform.size // hop_length - first, (waveform.size - shift) // hop_length)
    if margin < 0 or num_frames - 2 * margin < 1:
        raise ValueError(f"`waveform` of {waveform.size} samples has no frame left for shift {shift}, margin {margin}")
    whole, shifted = _codes(encode, waveform), _codes(encode, waveform[shift:])
    if whole.shape[0] != shifted.shape[0] or min(whole.shape[1] - first, shifted.shape[1]) < num_frames:
        raise ValueError(
            f"`encode` must return a frame for each {hop_length} samples, got shapes {list(whole.shape)} and"
            f" {list(shifted.shape)}"
        )
    equal = whole[:, first : first + num_frames] == shifted[:, :num_frames]
    return equal[:, margin : num_frames - margin].mean(axis=1)
