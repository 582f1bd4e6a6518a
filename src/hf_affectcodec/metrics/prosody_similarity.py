"""
Prosody similarity: how far melody, loudness and timing are kept.

[`prosody_similarity`] is a stand-in for the "Pros-SIM" of the AffectCodec paper (arXiv 2605.11098), which is AutoPCP
([`~hf_affectcodec.metrics.autopcp.autopcp`]). The two do not compare.

[`log_f0_correlation`] and [`energy_correlation`] go with it: they compare frame by frame what it compares in summary.
"""

import numpy as np

from .f0 import MIN_VOICED_FRAMES, TIME_STEP, both_voiced_f0, f0_track
from .waveforms import check_audible, check_pair, check_waveform


WINDOW = 0.025  # seconds
DYNAMIC_RANGE = 50.0  # dB; what lies further below the loudest frame of a clip is its background

# Feature -> what its difference is divided by: its spread over 2864 original clips (`open-prompts` train and
# `expressive-voices`), half of the way from the 16th to the 84th percentile, to two digits. For a normal distribution
# that is the standard deviation; slopes have far outliers, as some clips last a fifth of a second.
SCALES = {
    "pitch_mean": 3.9,  # semitones
    "pitch_std": 1.1,  # semitones
    "pitch_range": 2.9,  # semitones
    "pitch_slope": 10.0,  # semitones / s
    "energy_level": 2.1,  # dB
    "energy_std": 2.8,  # dB
    "energy_range": 11.0,  # dB
    "energy_slope": 11.0,  # dB / s
    "voiced_share": 0.12,
    "voiced_rate": 1.2,  # segments / s
    "voiced_length": 0.73,  # octaves
}


def energy_track(waveform, sampling_rate: int) -> np.ndarray:
    """
    Level of Hann-windowed frames of 25 ms every 10 ms, `10 log10(mean of squares)`, no lower than 50 dB below the
    loudest.

    Args:
        waveform (array [T]): Samples, full scale ±1.
        sampling_rate (`int`): In Hz.

    Returns:
        `np.ndarray` [floor((T - window) / hop) + 1]: In dB of full scale.

    Raises:
        ValueError: The waveform is not usable, is silent or shorter than 25 ms.
    """
    waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
    window, hop = round(WINDOW * sampling_rate), round(TIME_STEP * sampling_rate)
    if waveform.size < window:
        raise ValueError(f"`waveform` must have at least {window} samples, got {waveform.size}")
    weights = np.hanning(window) ** 2
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]
    power = frames**2 @ (weights / weights.sum())
    return 10 * np.log10(np.maximum(power, power.max() * 10 ** (-DYNAMIC_RANGE / 10)))


def prosody_features(waveform, sampling_rate: int) -> dict[str, float]:
    """
    Eleven numbers on the prosody of a clip. F0 is [`~hf_affectcodec.metrics.f0.f0_track`]'s, in semitones
    (`12 log2 f`), over voiced frames; energy is [`energy_track`]'s, over all frames, pauses included. Nothing is
    decided by a threshold on energy, so that noise moves the features little by little. Slopes are of least squares
    against the time of the frames; ranges go from the 10th to the 90th percentile.

    Args:
        waveform (array [T]): Samples, full scale ±1.
        sampling_rate (`int`): In Hz.

    Returns:
        `dict[str, float]`: `pitch_mean`, `pitch_std`, `pitch_range` (semitones), `pitch_slope` (semitones a second);
        `energy_level` (90th percentile, dB of full scale), `energy_std`, `energy_range` (dB), `energy_slope` (dB a
        second); `voiced_share` (of all frames), `voiced_rate` (voiced segments a second) and `voiced_length` (`log2` of
        their mean length in seconds).

    Raises:
        ValueError: The waveform is not usable, is silent or too short, or has fewer than 10 voiced frames.
    """
    energy = energy_track(waveform, sampling_rate)
    f0 = f0_track(waveform, sampling_rate)
    voiced = f0 > 0
    if voiced.sum() < MIN_VOICED_FRAMES:
        raise ValueError(f"`waveform` must have {MIN_VOICED_FRAMES} voiced frames, got {voiced.sum()}")
    pitch = 12 * np.log2(f0[voiced])
    num_segments = int(voiced[0]) + int((voiced[1:] & ~voiced[:-1]).sum())
    pitch_low, pitch_high = np.percentile(pitch, [10, 90])
    energy_low, energy_high = np.percentile(energy, [10, 90])
    return {
        "pitch_mean": float(pitch.mean()),
        "pitch_std": float(pitch.std()),
        "pitch_range": float(pitch_high - pitch_low),
        "pitch_slope": _slope(np.flatnonzero(voiced), pitch),
        "energy_level": float(energy_high),
        "energy_std": float(energy.std()),
        "energy_range": float(energy_high - energy_low),
        "energy_slope": _slope(np.arange(energy.size), energy),
        "voiced_share": float(voiced.mean()),
        "voiced_rate": num_segments / (voiced.size * TIME_STEP),
        "voiced_length": float(np.log2(voiced.sum() * TIME_STEP / num_segments)),
    }


def _slope(frames: np.ndarray, values: np.ndarray) -> float:
    """Of the least-squares line, a second; 0 for a single frame."""
    time = frames * TIME_STEP
    time = time - time.mean()
    spread = (time**2).sum()
    return float((time * values).sum() / spread) if spread > 0 else 0.0


def prosody_similarity(reference, degraded, sampling_rate: int) -> float:
    """
    `exp(-sqrt(mean_k ((x_k - y_k) / s_k)^2))` over the features k of [`prosody_features`], with the fixed scales s_k of
    `SCALES`: the spreads of the features over original clips. Clips need not have one length, nor say the
    same.

    Args:
        reference (array [T]): The original, full scale ±1.
        degraded (array [T2]): The signal under test.
        sampling_rate (`int`): In Hz.

    Returns:
        `float`: 0 to 1 (the same features). Higher is better. `exp(-1) = .37` means that the features differ by as much
        as those of a usual clip from the median of all.

    Raises:
        ValueError: A clip has no features (see [`prosody_features`]): one without voice, for one.
    """
    features = []
    for name, waveform in (("reference", reference), ("degraded", degraded)):
        try:
            features.append(prosody_features(waveform, sampling_rate))
        except ValueError as error:
            raise ValueError(str(error).replace("`waveform`", f"`{name}`")) from error
    differences = [(features[0][name] - features[1][name]) / scale for name, scale in SCALES.items()]
    return float(np.exp(-np.sqrt(np.mean(np.square(differences)))))


def energy_correlation(reference, degraded, sampling_rate: int) -> float:
    """
    Pearson correlation of the levels in dB of all frames of [`energy_track`].

    Args:
        reference (array [T]): The original.
        degraded (array [T]): The signal under test, same length, aligned.
        sampling_rate (`int`): In Hz.

    Returns:
        `float`: -1 to 1 (identical). Higher is better. Blind to a constant gain; noise that fills pauses lowers it.

    Raises:
        ValueError: A waveform is not usable, is silent or shorter than 25 ms; or its level is constant, so that the
            correlation is undefined.
    """
    reference, degraded = check_pair(reference, degraded)
    check_audible(degraded, "degraded")
    tracks = {}
    for name, waveform in (("reference", reference), ("degraded", degraded)):
        try:
            tracks[name] = energy_track(waveform, sampling_rate)
        except ValueError as error:
            raise ValueError(str(error).replace("`waveform`", f"`{name}`")) from error
        if np.ptp(tracks[name]) < 1e-9:  # dB; rounding
            raise ValueError(f"`{name}` has a constant level: its correlation is undefined")
    return float(np.corrcoef(tracks["reference"], tracks["degraded"])[0, 1])


def log_f0_correlation(reference, degraded, sampling_rate: int) -> float:
    """
    Pearson correlation of log F0 over the frames voiced in both: [`~hf_affectcodec.metrics.f0.f0_correlation`] on the
    scale on which pitch is heard, where an octave error in a high voice weighs no more than one in a low voice.

    Args:
        reference (array [T]): The original.
        degraded (array [T]): The signal under test, same length, aligned.
        sampling_rate (`int`): In Hz.

    Returns:
        `float`: -1 to 1 (identical). Higher is better. Blind to a constant transposition.

    Raises:
        ValueError: See [`~hf_affectcodec.metrics.f0.both_voiced_f0`]; or a track is constant, so that the correlation
            is undefined.
    """
    tracks = both_voiced_f0(reference, degraded, sampling_rate)
    for name, track in zip(("reference", "degraded"), tracks, strict=True):
        if np.ptp(track) == 0:
            raise ValueError(f"`{name}` has a constant F0: its correlation is undefined")
    return float(np.corrcoef(np.log(tracks[0]), np.log(tracks[1]))[0, 1])
