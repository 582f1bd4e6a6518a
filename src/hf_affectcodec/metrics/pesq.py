"""PESQ: perceptual evaluation of speech quality."""

import numpy as np

from .waveforms import check_audible, check_pair


try:
    from pesq import PesqError
    from pesq import pesq as itu_pesq
except ImportError as error:
    raise ImportError("PESQ needs the package `pesq`: pip install 'hf-affectcodec[eval]'") from error


# The bands and the sampling rates in Hz that they are defined for.
SAMPLING_RATES = {"wb": (16000,), "nb": (8000, 16000)}


def pesq(reference, degraded, sampling_rate: int, mode: str = "wb") -> float:
    """
    PESQ as a mean opinion score (MOS-LQO): ITU-T P.862.2 for `mode="wb"` (50 to 7000 Hz), P.862 with the mapping of
    P.862.1 for `"nb"`, by the package `pesq` (the ITU's C code). The two scales are not comparable: print the mode.

    Both waveforms are divided by their common peak first, so that a common gain does not matter. PESQ aligns time by
    itself, per utterance.

    Args:
        reference (array [T]): The original, full scale ±1.
        degraded (array [T]): The signal under test, same length.
        sampling_rate (`int`): In Hz. 16000, or 8000 with `mode="nb"`.
        mode (`str`, *optional*, defaults to `"wb"`): `"wb"` or `"nb"`.

    Returns:
        `float`: About 1.0 (bad) to 4.64 (`wb`, identical) or 4.55 (`nb`, identical). Higher is better.

    Raises:
        ValueError: A waveform is not usable (see [`~hf_affectcodec.metrics.waveforms.check_pair`]), `degraded` is
            silent, the clip is shorter than a quarter of a second, or PESQ finds no utterance in it. The clip has no
            PESQ then; it is not a clip of bad quality.
    """
    if mode not in SAMPLING_RATES:
        raise ValueError(f"`mode` must be one of {sorted(SAMPLING_RATES)}, got {mode!r}")
    if sampling_rate not in SAMPLING_RATES[mode]:
        raise ValueError(f"`sampling_rate` must be in {SAMPLING_RATES[mode]} for mode {mode!r}, got {sampling_rate}")
    reference, degraded = check_pair(reference, degraded)
    check_audible(degraded, "degraded")

    try:
        value = float(itu_pesq(sampling_rate, reference, degraded, mode))
    except PesqError as error:
        # The C code's messages are bytes.
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"`reference`: PESQ cannot measure this clip ({reason})") from error
    if not np.isfinite(value):
        raise ValueError(f"`degraded`: PESQ of this clip is {value}")
    return value
