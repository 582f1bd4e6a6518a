"""
The codec table: systems x clips x metrics that need no download, one row a system and clip, kept on disk as it goes.

    python -m hf_affectcodec.benchmarks.codec_table --data test.parquet --models DIR_OR_HUB_ID ... \
        --baselines opus-6 opus-8 mp3-8 --out DIR

writes `DIR/rows.jsonl` (everything measured), `DIR/table.json` and `DIR/table.md`, and prints the last. Run again with
the same `--out`, it measures only what is missing: a row is reused when clip, system, the system's fingerprint
(weights, library version) and the protocol are the same.

A clip that a metric cannot measure is NaN for that metric, is counted, and its reason is kept; it is never averaged.
The exit status is 1 where a cell of the table misses more clips than `--max-failures`.

The paper's whole table, with models behind its columns, is `affectcodec evaluate codec` ([`~.evaluate_codec`]).
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hf_affectcodec.metrics.distillmos import distillmos
from hf_affectcodec.metrics.egemaps import egemaps_distance
from hf_affectcodec.metrics.f0 import f0_correlation, f0_rmse, log_f0_rmse, voicing_error
from hf_affectcodec.metrics.lsd import lsd
from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.metrics.prosody_similarity import energy_correlation
from hf_affectcodec.metrics.stoi import stoi

from . import tables
from .clips import count_clips, read_clips, sha256_of
from .codec_facts import add_codec_facts
from .codecs import SAMPLING_RATE, AudioTokenizationCodec, Codec, Original, PyAVCodec
from .columns.signal import MAX_LAG, MIN_CORRELATION, Metric, MetricColumns
from .measuring import measure_all, run_codec
from .rows import dump
from .tables import markdown, worst_failures, write_table


def _distillmos(reference: np.ndarray, degraded: np.ndarray, sampling_rate: int) -> float:
    return distillmos(degraded, sampling_rate)


METRICS = {
    "pesq_wb": Metric(pesq, "PESQ-WB ↑", 2),
    "stoi": Metric(stoi, "STOI ↑", 3),
    "lsd": Metric(lsd, "LSD ↓", 3),
    "f0_rmse_hz": Metric(f0_rmse, "F0 RMSE Hz ↓", 1),
    "log_f0_rmse_semitones": Metric(log_f0_rmse, "F0 RMSE semitones ↓", 2),
    "f0_correlation": Metric(f0_correlation, "F0 corr. ↑", 3),
    "voicing_error": Metric(voicing_error, "V/UV error ↓", 3),
    "energy_correlation": Metric(energy_correlation, "energy corr. ↑", 3),
    "egemaps_distance": Metric(egemaps_distance, "eGeMAPS distance ↓", 2, aligned=False),
    "distillmos": Metric(_distillmos, "DistillMOS ↑", 2, aligned=False),
}


def protocol(data: str | Path) -> dict:
    """What every row of one table has in common. Two tables are comparable when their protocols are equal."""
    packages = ("pesq", "pystoi", "praat-parselmouth", "opensmile", "distillmos", "torch", "torchaudio")
    return {
        "data": Path(data).name,
        "data_sha256": sha256_of(data),
        "sampling_rate": SAMPLING_RATE,
        "resampler": "torchaudio sinc_interp_hann, lowpass_filter_width 6, rolloff 0.99",
        "alignment": f"cross-correlation, |lag| <= {MAX_LAG} s, applied where correlation >= {MIN_CORRELATION}"
        " (not for DistillMOS and eGeMAPS)",
        "pesq_mode": "wb (ITU-T P.862.2)",
        "lsd": "n_fft 2048, hop 512, Hann, log10 of power, floor 1e-8, unit: decades",
        "f0": "Praat ac, 60 to 600 Hz, 10 ms; errors over frames voiced in both, at least 10",
        "egemaps": "eGeMAPSv02 functionals, z-scored with the package's fixed statistics, clipped to 5, root mean square"
        " difference",
        "bits": "payload only, no container; neural: frames x codebooks x log2(codebook size)",
        "packages": {name: version(name) for name in packages},
    }


def run(
    codecs: list[Codec],
    data: str | Path,
    out: str | Path,
    limit: int | None = None,
    workers: int = 0,
) -> list[list[dict]]:
    """
    Measures what is missing in `out/rows.jsonl`.

    Args:
        codecs (`list[Codec]`): Systems, with names of their own.
        data (`str` or `Path`): Parquet file, see [`~.clips.read_clips`].
        out (`str` or `Path`): Directory of the rows.
        limit (`int`, *optional*): First clips of the file to use.
        workers (`int`, *optional*, defaults to 0): Processes for the metrics; 0 measures in this one. The rows are the
            same, in the same order, apart from `codec_seconds`. Codecs always run in this process.

    Returns:
        `list[list[dict]]`: For each codec its rows, one a clip, in the order of the file.

    Raises:
        ValueError: Two codecs have one name, the data has no clips, or the rows on disk are of another protocol.
    """
    group = MetricColumns(METRICS, {})
    num_clips = count_clips(data, limit)
    files = {group.name: Path(out) / "rows.jsonl"}
    return measure_all(
        codecs, lambda: read_clips(data, num_clips), num_clips, run_codec, [group], files, protocol(data), workers
    )[group.name]


def tabulate(
    codecs: list[Codec], rows: list[list[dict]], protocol: dict, compare_to: str | None = None, seed: int = 0
) -> dict:
    """
    Args:
        codecs (`list[Codec]`): The systems.
        rows (`list[list[dict]]`): Their rows, as [`run`] returns them.
        protocol (`dict`): What they were measured by.
        compare_to (`str`, *optional*): Name of the system that each other one is tested against, clip by clip.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap and of the permutations.

    Returns:
        `dict`: The table, see [`~.tables.tabulate`] and [`~.codec_facts.codec_facts`].

    Raises:
        ValueError: `compare_to` is no system of the table.
    """
    group = MetricColumns(METRICS, {})
    table = tables.tabulate(codecs, [group], {group.name: rows}, protocol, compare_to, seed)
    return add_codec_facts(table, rows)


# ----- command line


def parse_model(text: str) -> tuple[str, str]:
    """`NAME=PATH_OR_ID`, or `PATH_OR_ID`, whose last part is then the name. Returns name and path."""
    name, separator, path = text.partition("=")
    if separator:
        return name, path
    return Path(text).name, text


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codec_table", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--data", type=Path, required=True, help="Parquet file with a column audio (bytes, path)")
    parser.add_argument("--models", nargs="*", default=[], metavar="[NAME=]DIR_OR_HUB_ID", help="transformers codecs")
    parser.add_argument("--baselines", nargs="*", default=[], metavar="CODEC-KBPS", help="opus-6, mp3-8, aac-12, ...")
    parser.add_argument("--out", type=Path, required=True, help="directory of rows.jsonl, table.json and table.md")
    parser.add_argument("--limit", type=int, help="use the first clips only")
    parser.add_argument("--compare-to", help="system to test the others against")
    parser.add_argument("--max-failures", type=int, default=0, help="clips that a cell may miss (default 0)")
    parser.add_argument("--workers", type=int, default=0, help="processes for the metrics (default: this one)")
    parser.add_argument("--device", default="cpu", help="where models run (default cpu)")
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap and permutations")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    codecs: list[Codec] = [Original()]
    for text in options.models:
        name, path = parse_model(text)
        codecs.append(AudioTokenizationCodec.from_pretrained(path, name, options.device))
    codecs += [PyAVCodec.from_name(name) for name in options.baselines]
    names = [codec.name for codec in codecs]
    if options.compare_to is not None and options.compare_to not in names:
        raise ValueError(f"`--compare-to` must be one of {names}, got {options.compare_to!r}")

    rows = run(codecs, options.data, options.out, options.limit, options.workers)
    table = tabulate(codecs, rows, protocol(options.data), options.compare_to, options.seed)
    sys.stdout.write(write_table(table, options.out))
    failures = worst_failures(table)
    if failures > options.max_failures:
        sys.stderr.write(f"{failures} clips failed in one cell, --max-failures is {options.max_failures}\n")
        return 1
    return 0


__all__ = ["METRICS", "dump", "main", "markdown", "protocol", "run", "tabulate", "worst_failures"]


if __name__ == "__main__":
    sys.exit(main())
