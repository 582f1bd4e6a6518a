"""How a voice sounds before and after: a dozen of the eGeMAPS functionals, side by side."""

import numpy as np

from hf_affectcodec.metrics.egemaps import LIMIT, egemaps_embedding, functional_names


MEASURES = {
    "F0semitoneFrom27.5Hz_sma3nz_amean": "pitch",
    "F0semitoneFrom27.5Hz_sma3nz_stddevNorm": "variation of pitch",
    "F0semitoneFrom27.5Hz_sma3nz_pctlrange0-2": "range of pitch",
    "loudness_sma3_amean": "loudness",
    "loudness_sma3_stddevNorm": "variation of loudness",
    "loudnessPeaksPerSec": "syllables a second",
    "jitterLocal_sma3nz_amean": "jitter",
    "shimmerLocaldB_sma3nz_amean": "shimmer",
    "HNRdBACF_sma3nz_amean": "harmonics to noise",
    "logRelF0-H1-H2_sma3nz_amean": "breathiness (H1 – H2)",
    "alphaRatioV_sma3nz_amean": "brightness (alpha ratio)",
    "spectralFlux_sma3_amean": "spectral flux",
}
STYLES = [("#111111", "o", 9), ("#3b5bdb", "D", 7), ("#e8853a", "s", 6)]  # original, rebuilt, compared


def voice_measures(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """
    Args:
        waveform (`np.ndarray` [T]): The clip, full scale ±1.
        sampling_rate (`int`): In Hz, must be 16000.

    Returns:
        `np.ndarray` [12]: The functionals of `MEASURES`, in standard deviations from the mean of clips, -5 to 5.

    Raises:
        ValueError: The clip has none (see [`~hf_affectcodec.metrics.egemaps.egemaps_functionals`]).
    """
    embedding = dict(zip(functional_names(), egemaps_embedding(waveform, sampling_rate), strict=True))
    return np.array([embedding[name] for name in MEASURES])


def voice_picture(clips: dict[str, np.ndarray], sampling_rate: int):
    """
    Args:
        clips (`dict[str, np.ndarray]`): Up to three waveforms [T], the original first, by what to call them.
        sampling_rate (`int`): In Hz, must be 16000.

    Returns:
        A matplotlib figure: a row a measure, a mark a clip.

    Raises:
        ValueError: See [`voice_measures`].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), dpi=150, layout="constrained")
    axis = figure.subplots()
    rows = np.arange(len(MEASURES))
    axis.hlines(rows, -LIMIT, LIMIT, color="#e3e6ea", linewidth=1)
    axis.axvline(0, color="#868e96", linewidth=1, linestyle=":")
    values = [voice_measures(waveform, sampling_rate) for waveform in clips.values()]
    axis.hlines(rows, np.min(values, axis=0), np.max(values, axis=0), color="#adb5bd", linewidth=3)
    for name, measures, (color, marker, size) in zip(clips, values, STYLES, strict=False):
        axis.plot(measures, rows, marker, color=color, markersize=size, markeredgecolor="white", label=name)
    reach = max(2.2, float(np.abs(values).max()) + 0.3)
    axis.set_xlim(-reach, reach)
    axis.set_yticks(rows, list(MEASURES.values()), fontsize=12)
    axis.invert_yaxis()
    axis.set_xlabel("standard deviations from the average clip of speech", fontsize=12)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=len(clips), frameon=False, fontsize=12)
    return figure
