"""The recordings that listeners hear."""

import secrets
from pathlib import Path

import numpy as np
import torch

from hf_affectcodec.audio import load_audio, resample, write_audio
from hf_affectcodec.benchmarks.codecs import SAMPLING_RATE as CODEC_RATE
from hf_affectcodec.benchmarks.systems import load_systems

from .plan import ORIGINAL, Plan


try:
    from scipy.signal import fftconvolve, firwin, kaiserord
except ImportError as error:
    raise ImportError("Listening tests need the package `scipy`: pip install 'hf-affectcodec[eval]'") from error


REFERENCE = "reference"
# ITU-R BS.1534-3, 5.1, of its 3.5 kHz anchor: at most ±0.1 dB of ripple below the cut-off, 25 dB down at 4 kHz, 50 dB at
# 4.5 kHz. One filter that is 60 dB down at 8/7 of the cut-off has all of it.
STOP_BAND = 8 / 7
ATTENUATION = 60.0  # dB


def low_pass(waveform: np.ndarray, sampling_rate: int, cutoff: float) -> np.ndarray:
    """
    An anchor of MUSHRA: linear phase, no delay.

    Args:
        waveform (`np.ndarray` [T]): The original.
        sampling_rate (`int`): In Hz.
        cutoff (`float`): End of the pass band in Hz. One of which no stop band lies below half the sampling rate leaves
            the waveform as it is.

    Returns:
        `np.ndarray` [T], float32.
    """
    stop = STOP_BAND * cutoff
    if stop >= sampling_rate / 2:
        return waveform.astype(np.float32)
    taps, beta = kaiserord(ATTENUATION, 2 * (stop - cutoff) / sampling_rate)
    kernel = firwin(taps | 1, (cutoff + stop) / 2, window=("kaiser", beta), fs=sampling_rate)
    return fftconvolve(waveform, kernel, mode="full")[len(kernel) // 2 :][: len(waveform)].astype(np.float32)


def _needed(plan: Plan) -> list[tuple[str, str]]:
    """Every (clip, system) of the tests, each once."""
    needed = {}
    for test in plan.tests.values():
        extra = [f"{name}_anchor" for name in test.anchors]
        if test.method == "mushra":
            extra += [REFERENCE, ORIGINAL]
        if test.attention_checks:
            extra += [REFERENCE]
        for clip in [*test.clips, *test.training]:
            needed |= dict.fromkeys((clip, system) for system in [*test.systems, *extra])
    return list(needed)


def render_stimuli(plan: Plan, folder: Path) -> dict[tuple[str, str], Path]:
    """
    Makes all recordings of a plan, 16-bit WAV at the plan's rate, as they are (levels are not matched).

    Args:
        plan ([`Plan`]): Of [`read_plan`].
        folder (`Path`): Where to. File names are random: what a browser is sent must not name the system.

    Returns:
        `dict`: By clip and system; `reference` and `original` of a clip are the same, in two files.

    Raises:
        ValueError: A recording is missing or unusable; the message names its key in the plan.
    """
    rate = plan.sampling_rate
    needed = _needed(plan)
    codecs = {codec.name: codec for codec in load_systems(plan.models, plan.baselines)}
    cutoffs = {}
    for name, test in plan.tests.items():
        for part, cutoff in test.anchors.items():
            if cutoffs.setdefault(f"{part}_anchor", cutoff) != cutoff:
                raise ValueError(f"`tests.{name}.anchors.{part}` must be the same in all tests, got {cutoff:g}")
    paths = {}
    for clip_name in dict.fromkeys(clip for clip, _ in needed):
        clip = plan.clips[clip_name]
        original = None
        if clip.file is not None:
            original = _read(plan.folder / clip.file, rate, f"clips.{clip_name}.file", clip.start, clip.stop)
        for system in [system for name, system in needed if name == clip_name]:
            if system in (ORIGINAL, REFERENCE):
                waveform = original
            elif system in cutoffs:
                waveform = low_pass(original, rate, cutoffs[system])
            elif system in plan.systems:
                waveform = _read(
                    plan.folder / plan.systems[system].replace("{clip}", clip_name), rate, f"systems.{system}"
                )
            else:
                decoded, _ = codecs[system](_resampled(original, rate, CODEC_RATE))
                waveform = _resampled(decoded, CODEC_RATE, rate)
            paths[clip_name, system] = folder / f"{secrets.token_hex(12)}.wav"
            write_audio(paths[clip_name, system], waveform, rate)
    return paths


def _read(path: Path, rate: int, key: str, start: float | None = None, stop: float | None = None) -> np.ndarray:
    try:
        return load_audio(path, rate, start, stop)[0].numpy()
    except ValueError as error:
        raise ValueError(f"`{key}`: {error}") from error


def _resampled(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    return resample(torch.from_numpy(waveform), rate, new_rate).numpy()
