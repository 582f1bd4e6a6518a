"""What every metric asks of the waveforms it is given."""

import numpy as np


def check_waveform(waveform, name: str) -> np.ndarray:
    """
    Args:
        waveform (array [T]): Samples, full scale ±1. Anything that `np.asarray` takes, CPU tensors included.
        name (`str`): Name of the argument, for the message.

    Returns:
        `np.ndarray` [T]: The same samples as float64.

    Raises:
        ValueError: The waveform is not one-dimensional, is empty, or holds NaN or infinite samples.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    if waveform.ndim != 1:
        raise ValueError(f"`{name}` must be a mono waveform of shape [T], got shape {list(waveform.shape)}")
    if waveform.size == 0:
        raise ValueError(f"`{name}` is empty")
    if not np.isfinite(waveform).all():
        raise ValueError(f"`{name}` holds samples that are NaN or infinite")
    return waveform


def check_audible(waveform: np.ndarray, name: str) -> np.ndarray:
    """
    Returns `waveform` [T] unchanged.

    Raises:
        ValueError: Every sample is zero.
    """
    if not waveform.any():
        raise ValueError(f"`{name}` is silent: every sample is zero")
    return waveform


def check_pair(reference, degraded) -> tuple[np.ndarray, np.ndarray]:
    """
    What metrics that compare two waveforms ask of them: the checks of [`check_waveform`] on both, one length, and a
    reference that is not silent. A silent `degraded` is left to the metric: some are defined for it.

    Args:
        reference (array [T]): The original.
        degraded (array [T]): What became of it, aligned (see [`~hf_affectcodec.metrics.alignment.align`]).

    Returns:
        `tuple` of two float64 `np.ndarray` [T].

    Raises:
        ValueError: A check failed; the message names the argument.
    """
    reference = check_audible(check_waveform(reference, "reference"), "reference")
    degraded = check_waveform(degraded, "degraded")
    if reference.shape != degraded.shape:
        raise ValueError(
            f"`degraded` must have the length of `reference`, got {degraded.size} and {reference.size} samples"
        )
    return reference, degraded
