"""
How well the pitch is kept: F0 tracks of both waveforms by Praat's autocorrelation method, compared frame by frame.

Errors of F0 are taken over the frames that are voiced in *both* waveforms, so they say nothing of frames whose voicing
was lost: read them beside [`voicing_error`].
"""

import numpy as np

from .waveforms import check_audible, check_pair, check_waveform


try:
    import parselmouth
except ImportError as error:
    raise ImportError("F0 needs the package `praat-parselmouth`: pip install 'hf-affectcodec[eval]'") from error


TIME_STEP = 0.01  # seconds
PITCH_FLOOR = 60.0  # Hz
PITCH_CEILING = 600.0  # Hz; shouted and acted speech comes near it
MIN_VOICED_FRAMES = 10  # 100 ms; below that an error of F0 measures the tracker


def f0_track(
    waveform,
    sampling_rate: int,
    time_step: float = TIME_STEP,
    pitch_floor: float = PITCH_FLOOR,
    pitch_ceiling: float = PITCH_CEILING,
) -> np.ndarray:
    """
    F0 by Praat's "To Pitch (ac)" (Boersma, 1993) with its standard costs, through `praat-parselmouth`.

    Args:
        waveform (array [T]): Samples.
        sampling_rate (`int`): In Hz.
        time_step (`float`, *optional*, defaults to 0.01): Seconds between frames.
        pitch_floor (`float`, *optional*, defaults to 60): Lowest F0 in Hz; the window is 3 / pitch_floor seconds long.
        pitch_ceiling (`float`, *optional*, defaults to 600): Highest F0 in Hz.

    Returns:
        `np.ndarray` [T']: F0 in Hz, 0 where unvoiced. T' depends on T only. A silent waveform gives zeros.

    Raises:
        ValueError: The waveform is not usable or shorter than 3 / pitch_floor seconds.
    """
    waveform = check_waveform(waveform, "waveform")
    if waveform.size < 3 * sampling_rate / pitch_floor:
        raise ValueError(
            f"`waveform` must last at least 3 / pitch_floor = {3 / pitch_floor:.3f} s, got {waveform.size} samples"
        )
    sound = parselmouth.Sound(waveform, sampling_frequency=sampling_rate)
    pitch = sound.to_pitch_ac(time_step=time_step, pitch_floor=pitch_floor, pitch_ceiling=pitch_ceiling)
    return pitch.selected_array["frequency"]


def paired_f0(reference, degraded, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns the F0 tracks [T'], [T'] of both waveforms in Hz, 0 where unvoiced.

    Raises:
        ValueError: A waveform is not usable (see [`~hf_affectcodec.metrics.waveforms.check_pair`]), is silent, or is
            too short; or the reference has fewer than `MIN_VOICED_FRAMES` voiced frames.
    """
    reference, degraded = check_pair(reference, degraded)
    check_audible(degraded, "degraded")
    f0_reference, f0_degraded = f0_track(reference, sampling_rate), f0_track(degraded, sampling_rate)
    num_voiced = int((f0_reference > 0).sum())
    if num_voiced < MIN_VOICED_FRAMES:
        raise ValueError(f"`reference` must have {MIN_VOICED_FRAMES} voiced frames, got {num_voiced}")
    return f0_reference, f0_degraded


def both_voiced_f0(reference, degraded, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns F0 in Hz of both waveforms over the N frames that are voiced in both: [N], [N].

    Raises:
        ValueError: As [`paired_f0`]; or fewer than `MIN_VOICED_FRAMES` frames are voiced in both.
    """
    f0_reference, f0_degraded = paired_f0(reference, degraded, sampling_rate)
    voiced = (f0_reference > 0) & (f0_degraded > 0)
    if voiced.sum() < MIN_VOICED_FRAMES:
        raise ValueError(
            f"`degraded` must have {MIN_VOICED_FRAMES} frames that are voiced in both waveforms, got {voiced.sum()}"
        )
    return f0_reference[voiced], f0_degraded[voiced]


def f0_rmse(reference, degraded, sampling_rate: int) -> float:
    """
    `sqrt(mean((f_ref - f_deg)^2))` in Hz over the frames voiced in both. The AffectCodec paper reports an "MSEP" of
    pitch without a formula; this is the nearest common definition and is not to be put in one column with it.

    Args:
        reference (array [T]): The original.
        degraded (array [T]): The signal under test, same length, aligned.
        sampling_rate (`int`): In Hz.

    Returns:
        `float`: 0 (identical) and up, in Hz. Lower is better. Octave errors and high voices weigh most.

    Raises:
        ValueError: See [`both_voiced_f0`].
    """
    f0_reference, f0_degraded = both_voiced_f0(reference, degraded, sampling_rate)
    return float(np.sqrt(((f0_reference - f0_degraded) ** 2).mean()))


def log_f0_rmse(reference, degraded, sampling_rate: int) -> float:
    """
    `sqrt(mean((12 log2(f_ref / f_deg))^2))` over the frames voiced in both.

    Args:
        reference (array [T]): The original.
        degraded (array [T]): The signal under test, same length, aligned.
        sampling_rate (`int`): In Hz.

    Returns:
        `float`: 0 (identical) and up, in semitones; times ln(2) / 12 = 0.0578 it is the RMSE of natural-log F0. Lower
        is better.

    Raises:
        ValueError: See [`both_voiced_f0`].
    """
    f0_reference, f0_degraded = both_voiced_f0(reference, degraded, sampling_rate)
    return float(np.sqrt(((12 * np.log2(f0_reference / f0_degraded)) ** 2).mean()))


def f0_correlation(reference, degraded, sampling_rate: int) -> float:
    """
    Pearson correlation of F0 in Hz over the frames voiced in both.

    Args:
        reference (array [T]): The original.
        degraded (array [T]): The signal under test, same length, aligned.
        sampling_rate (`int`): In Hz.

    Returns:
        `float`: -1 to 1 (identical). Higher is better. Blind to a constant shift of pitch, and low on monotone clips
        however small the error.

    Raises:
        ValueError: See [`both_voiced_f0`]; or a track is constant, so that the correlation is undefined.
    """
    f0_reference, f0_degraded = both_voiced_f0(reference, degraded, sampling_rate)
    for name, track in (("reference", f0_reference), ("degraded", f0_degraded)):
        if np.ptp(track) == 0:
            raise ValueError(f"`{name}` has a constant F0: its correlation is undefined")
    return float(np.corrcoef(f0_reference, f0_degraded)[0, 1])


def voicing_error(reference, degraded, sampling_rate: int) -> float:
    """
    Share of all frames that are voiced in one waveform and unvoiced in the other (voicing decision error).

    Args:
        reference (array [T]): The original.
        degraded (array [T]): The signal under test, same length, aligned.
        sampling_rate (`int`): In Hz.

    Returns:
        `float`: 0 (identical) to 1. Lower is better.

    Raises:
        ValueError: See [`paired_f0`].
    """
    f0_reference, f0_degraded = paired_f0(reference, degraded, sampling_rate)
    return float(((f0_reference > 0) != (f0_degraded > 0)).mean())
