"""
eGeMAPSv02 functionals (Eyben et al., 2016) by openSMILE: 88 hand-made numbers that describe the voice of a whole clip.

They need no network and no transcript. Before clips are compared each functional is z-scored with fixed statistics,
the same for every table, so that a value does not depend on which clips are measured together. The statistics are in
`assets/egemaps_functionals.json`, with the data they are from, and were made by

    python -m hf_affectcodec.metrics.egemaps OPEN_PROMPTS_TRAIN.parquet ... EXPRESSIVE_VOICES.parquet --out FILE.json

openSMILE is free for research and private use only; its licence comes with the package.
"""

import argparse
import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from .waveforms import check_audible, check_waveform


try:
    import opensmile
except ImportError as error:
    raise ImportError(
        "eGeMAPS functionals need the package `opensmile`: pip install 'hf-affectcodec[eval]'"
    ) from error


SAMPLING_RATE = 16000  # Hz; the functionals of a clip change with its bandwidth
MIN_SAMPLES = 960  # 60 ms, openSMILE's longest window; it has no functionals of less
STATISTICS = Path(__file__).parents[1] / "assets" / "egemaps_functionals.json"
# z-scores end here. Functionals that divide by a mean near zero (`mfcc4_sma3_stddevNorm` and the like) reach 50, and one
# of them would drown the other 87.
LIMIT = 5.0
# A functional whose standard deviation is below this share of its mean is constant up to rounding.
RELATIVE_SPREAD = 1e-6


@functools.cache
def _extractor() -> opensmile.Smile:
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals, verbose=False)


def functional_names() -> list[str]:
    """The names of the 88 functionals, in openSMILE's order."""
    return list(_extractor().feature_names)


def egemaps_functionals(waveform, sampling_rate: int) -> np.ndarray:
    """
    Args:
        waveform (array [T]): The clip, full scale ±1.
        sampling_rate (`int`): In Hz, must be 16000.

    Returns:
        `np.ndarray` [88]: float64, each functional in its own unit (semitones, dB, Hz, seconds, ...). Those of voiced
        frames are 0 in a clip without voice. Level matters: loudness and equivalent sound level are among them.

    Raises:
        ValueError: The waveform is not usable, is silent or shorter than 60 ms, the sampling rate is another, or
            openSMILE gives a value that is not finite.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
    waveform = check_audible(check_waveform(waveform, "waveform"), "waveform")
    if waveform.size < MIN_SAMPLES:
        raise ValueError(f"`waveform` must have at least {MIN_SAMPLES} samples, got {waveform.size}")
    table = _extractor().process_signal(waveform.astype(np.float32), sampling_rate)
    functionals = table.to_numpy(dtype=np.float64)[0]
    if not np.isfinite(functionals).all():
        name = functional_names()[int(np.flatnonzero(~np.isfinite(functionals))[0])]
        raise ValueError(f"`waveform`: the functional {name} of this clip is not finite")
    return functionals


@functools.cache
def _fixed_statistics() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [88], standard deviation [88] and which functionals vary (bool [88]), as shipped."""
    statistics = json.loads(STATISTICS.read_text(encoding="utf-8"))
    if statistics["names"] != functional_names():
        raise ValueError(f"{STATISTICS.name} has other functionals than opensmile {opensmile.__version__}")
    mean, std = np.array(statistics["mean"]), np.array(statistics["std"])
    varying = ~np.isin(statistics["names"], statistics["constant"])
    return mean, std, varying


def egemaps_embedding(waveform, sampling_rate: int) -> np.ndarray:
    """
    The functionals of a clip, z-scored with the fixed statistics and clipped to ±5: the embedding behind the offline
    stand-in of emotion similarity (see [`~hf_affectcodec.metrics.emotion_similarity.emotion_similarity`]).

    Args:
        waveform (array [T]): The clip, full scale ±1.
        sampling_rate (`int`): In Hz, must be 16000.

    Returns:
        `np.ndarray` [C]: float64, standard deviations from the mean of the clips behind the statistics, -5 to 5. C is
        88 less the functionals that were constant there (none in the statistics that are shipped).

    Raises:
        ValueError: See [`egemaps_functionals`].
    """
    mean, std, varying = _fixed_statistics()
    functionals = egemaps_functionals(waveform, sampling_rate)
    return np.clip((functionals[varying] - mean[varying]) / std[varying], -LIMIT, LIMIT)


def egemaps_distance(reference, degraded, sampling_rate: int) -> float:
    """
    `sqrt(mean_c((z_c(reference) - z_c(degraded))^2))` over the functionals c, z-scored as in [`egemaps_embedding`]: how
    far the voice of the clip moved, in standard deviations of clips. Clips need not have one length.

    Args:
        reference (array [T]): The original, full scale ±1.
        degraded (array [T2]): The signal under test.
        sampling_rate (`int`): In Hz, must be 16000.

    Returns:
        `float`: 0 (identical) to 10. Lower is better. Two unrelated clips are about 1.2 apart.

    Raises:
        ValueError: One of the clips has no functionals (see [`egemaps_functionals`]).
    """
    embeddings = []
    for name, waveform in (("reference", reference), ("degraded", degraded)):
        try:
            embeddings.append(egemaps_embedding(waveform, sampling_rate))
        except ValueError as error:
            raise ValueError(str(error).replace("`waveform`", f"`{name}`")) from error
    return float(np.sqrt(((embeddings[0] - embeddings[1]) ** 2).mean()))


# ----- the fixed statistics


def functional_statistics(functionals) -> dict:
    """
    Args:
        functionals (array [N, 88]): Of N originals, each counted once whatever its length.

    Returns:
        `dict`: `names`; `mean` and `std` (population) of each; `constant`: the names of those that do not vary, which
        no distance uses.

    Raises:
        ValueError: There are fewer than two clips, or a value is not finite.
    """
    functionals = np.asarray(functionals, dtype=np.float64)
    names = functional_names()
    if functionals.ndim != 2 or functionals.shape[0] < 2 or functionals.shape[1] != len(names):
        raise ValueError(f"`functionals` must have shape [N >= 2, {len(names)}], got {list(functionals.shape)}")
    if not np.isfinite(functionals).all():
        raise ValueError("`functionals` holds values that are NaN or infinite")
    mean, std = functionals.mean(axis=0), functionals.std(axis=0)
    constant = std <= RELATIVE_SPREAD * np.abs(mean)
    return {
        "names": names,
        "mean": [float(f"{value:.7g}") for value in mean],
        "std": [float(f"{value:.7g}") for value in std],
        "constant": [name for name, flat in zip(names, constant, strict=True) if flat],
    }


def main(arguments: list[str] | None = None) -> int:
    import pyarrow.parquet as parquet
    from tqdm import tqdm

    from hf_affectcodec.audio import AudioFileError, load_audio

    parser = argparse.ArgumentParser(prog="egemaps", description="Statistics of the functionals of original clips.")
    parser.add_argument("data", nargs="+", type=Path, help="Parquet files with a column audio (bytes, path)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    functionals, sources = [], []
    for path in options.data:
        before, failures = len(functionals), []
        for audio in tqdm(
            parquet.read_table(path, columns=["audio"])["audio"].to_pylist(), desc=path.name, unit="clip"
        ):
            try:
                waveform = load_audio(audio["bytes"], SAMPLING_RATE, name=audio["path"])[0]
                functionals.append(egemaps_functionals(waveform, SAMPLING_RATE))
            except (AudioFileError, ValueError) as error:
                failures.append(f"{audio['path']}: {error}")
        sources.append(
            {
                "file": f"{path.resolve().parent.name}/{path.name}",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "clips": len(functionals) - before,
                "failures": failures,
            }
        )
    statistics = {
        "about": "Mean and population standard deviation of the eGeMAPSv02 functionals of original clips, each clip "
        "counted once; made by `python -m hf_affectcodec.metrics.egemaps`",
        "opensmile": opensmile.__version__,
        "sampling_rate": SAMPLING_RATE,
        "num_clips": len(functionals),
        "sources": sources,
        **functional_statistics(functionals),
    }
    options.out.write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
