"""
The codec table: systems x clips x metrics, one row a system and clip, kept on disk as it goes.

    python -m hf_affectcodec.benchmarks.codec_table --data test.parquet --models DIR_OR_HUB_ID ... \
        --baselines opus-6 opus-8 mp3-8 --out DIR

writes `DIR/rows.jsonl` (everything measured), `DIR/table.json` and `DIR/table.md`, and prints the last. Run again with
the same `--out`, it measures only what is missing: a row is reused when clip, system, the system's fingerprint
(weights, library version) and the protocol are the same.

A clip that a metric cannot measure is NaN for that metric, is counted, and its reason is kept; it is never averaged.
The exit status is 1 where a cell of the table misses more clips than `--max-failures`.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hf_affectcodec.audio import AudioFileError, load_audio
from hf_affectcodec.metrics.alignment import align, estimate_lag
from hf_affectcodec.metrics.distillmos import distillmos
from hf_affectcodec.metrics.egemaps import egemaps_distance
from hf_affectcodec.metrics.f0 import f0_correlation, f0_rmse, log_f0_rmse, voicing_error
from hf_affectcodec.metrics.lsd import lsd
from hf_affectcodec.metrics.pesq import pesq
from hf_affectcodec.metrics.prosody_similarity import energy_correlation
from hf_affectcodec.metrics.statistics import (
    bootstrap_interval,
    paired_differences,
    paired_permutation_test,
    summarize,
)
from hf_affectcodec.metrics.stoi import stoi

from .codecs import SAMPLING_RATE, AudioTokenizationCodec, Codec, Original, PyAVCodec


try:
    import pyarrow.parquet as parquet
except ImportError as error:
    raise ImportError("The codec table needs the package `pyarrow`: pip install 'hf-affectcodec[eval]'") from error


MAX_LAG = 0.05  # seconds searched for a residual delay
MIN_CORRELATION = 0.5  # below it the two waveforms have too little in common for their lag to mean anything
DIGITS = 6  # decimals kept of a value: beyond them lies the rounding of the arithmetic
QUEUE = 4  # clips coded ahead of each worker
REASONS = 3  # reasons of failure printed for each stage; all of them are in table.json


@dataclass(frozen=True)
class Metric:
    """
    Args:
        function (`Callable`): `(reference [T], degraded [T], sampling_rate) -> float`; a ValueError says that this
            clip cannot be measured.
        label (`str`): Column heading, with the direction that is better.
        digits (`int`): Decimals printed.
        aligned (`bool`, *optional*, defaults to `True`): Whether `degraded` is moved by the lag found before.
    """

    function: Callable[[np.ndarray, np.ndarray, int], float]
    label: str
    digits: int
    aligned: bool = True


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


# ----- clips


@dataclass(frozen=True)
class Clip:
    """
    Args:
        index (`int`): Row of the Parquet file.
        path (`str`): Path that the row names, or its index as text.
        data (`bytes`): The audio file.
        language, speaker_id (`str`, *optional*): Of the row, where the file has such columns.
    """

    index: int
    path: str
    data: bytes
    language: str | None
    speaker_id: str | None


def read_clips(path: str | Path, limit: int | None = None) -> Iterator[Clip]:
    """
    Yields the first `limit` rows (all without it) of a Parquet file whose column `audio` is a struct of `bytes` and
    `path`, as `datasets` writes it.

    Raises:
        ValueError: The file has no such column, or a row has no bytes.
    """
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if "audio" not in names:
            raise ValueError(f"`path`: {Path(path).name} has no column `audio`, only {names}")
        columns = [name for name in ("audio", "language", "speaker_id") if name in names]
        index = 0
        for batch in file.iter_batches(batch_size=16, columns=columns):
            for row in batch.to_pylist():
                if index == limit:
                    return
                audio = row["audio"]
                if audio is None or audio["bytes"] is None:
                    raise ValueError(f"`path`: row {index} of {Path(path).name} has no audio bytes")
                yield Clip(
                    index, audio["path"] or str(index), audio["bytes"], row.get("language"), row.get("speaker_id")
                )
                index += 1


# ----- one row


def measure(reference: np.ndarray, degraded: np.ndarray) -> dict:
    """
    All metrics on one clip.

    Args:
        reference (`np.ndarray` [T]): float32 at 16 kHz.
        degraded (`np.ndarray` [T]): float32 at 16 kHz.

    Returns:
        `dict`: `lag` (samples, positive where `degraded` is late) and `correlation` at that lag, `None` where there is
        none; `shift` (samples taken out before the metrics that want alignment: the lag, or 0 where the correlation is
        below `MIN_CORRELATION`); `metrics` (NaN where a clip cannot be measured) and `failures` (the reasons).
    """
    # The same arithmetic in every process: sums split over threads round differently.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lag, correlation = None, None
        try:
            lag, correlation = estimate_lag(reference, degraded, SAMPLING_RATE, MAX_LAG)
        except ValueError:
            pass  # silent or not finite: each metric says so below, or is defined for it
        shift = lag if lag is not None and correlation >= MIN_CORRELATION else 0
        aligned = align(degraded, shift, reference.size)
        values, failures = {}, {}
        for name, metric in METRICS.items():
            try:
                value = metric.function(reference, aligned if metric.aligned else degraded, SAMPLING_RATE)
                values[name] = round(value, DIGITS)
            except ValueError as error:
                values[name] = math.nan
                failures[name] = str(error)
    finally:
        torch.set_num_threads(num_threads)
    return {
        "lag": lag,
        "correlation": None if correlation is None else round(correlation, DIGITS),
        "shift": shift,
        "metrics": values,
        "failures": failures,
    }


def unmeasured(stage: str, error: Exception) -> dict:
    """The same for a clip that did not get as far as the metrics."""
    return {
        "lag": None,
        "correlation": None,
        "shift": 0,
        "metrics": dict.fromkeys(METRICS, math.nan),
        "failures": {stage: str(error)},
    }


def run_codec(codec: Codec, clip: Clip) -> tuple[dict, np.ndarray | None, np.ndarray | None]:
    """
    Returns the beginning of a row, and the clip and what the codec made of it ([T], [T]); or, for a clip that cannot
    be read or coded, the whole row and two times `None`.
    """
    row = {
        "system": codec.name,
        "fingerprint": codec.fingerprint,
        "clip": clip.index,
        "path": clip.path,
        "language": clip.language,
        "speaker_id": clip.speaker_id,
        "seconds": None,
        "bits": None,
        "codec_seconds": None,
    }
    try:
        reference = load_audio(clip.data, SAMPLING_RATE, name=clip.path)[0].numpy()
    except AudioFileError as error:
        return {**row, **unmeasured("clip", error)}, None, None
    row["seconds"] = reference.size / SAMPLING_RATE
    start = time.perf_counter()
    # Networks refuse clips (too short for a kernel, say) by RuntimeError. Other errors are bugs and end the run.
    try:
        degraded, bits = codec(reference)
    except (ValueError, RuntimeError) as error:
        return {**row, **unmeasured("codec", error)}, None, None
    row["codec_seconds"] = round(time.perf_counter() - start, 4)
    if degraded.shape != reference.shape:
        error = ValueError(f"{codec.name} made {list(degraded.shape)} samples of {list(reference.shape)}")
        return {**row, **unmeasured("codec", error)}, None, None
    row["bits"] = int(bits)
    return row, reference, degraded


# ----- the file of rows


def protocol(data: str | Path) -> dict:
    """What every row of one table has in common. Two tables are comparable when their protocols are equal."""
    digest = hashlib.sha256()
    with open(data, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    packages = ("pesq", "pystoi", "praat-parselmouth", "opensmile", "distillmos", "torch", "torchaudio")
    return {
        "data": Path(data).name,
        "data_sha256": digest.hexdigest(),
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


def _finite(value):
    """JSON has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def dump(value: dict, indent: int | None = None) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


class Rows:
    """
    The rows of one table in a JSONL file: the protocol on the first line, then one line a system and clip, written as
    soon as it is measured. A last line cut short by a killed process is dropped.

    Args:
        path (`Path`): The file; made if missing.
        protocol (`dict`): What the rows are measured by.

    Raises:
        ValueError: The file holds rows of another protocol, or a line is not JSON.
    """

    def __init__(self, path: Path, protocol: dict):
        self.path = path
        self.by_key: dict[tuple[str, str, int], dict] = {}
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dump({"protocol": protocol}) + "\n", encoding="utf-8")
            return
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with open(path, "r+b") as file:
                file.truncate(len(whole))
        try:
            lines = [json.loads(line) for line in whole.decode().splitlines()]
        except ValueError as error:
            raise ValueError(f"`out`: {path.name} has a line that is not JSON ({error})") from error
        if not lines:
            path.write_text(dump({"protocol": protocol}) + "\n", encoding="utf-8")
            return
        found = lines[0].get("protocol", {})
        changed = sorted(key for key in found.keys() | protocol.keys() if found.get(key) != protocol.get(key))
        if changed:
            raise ValueError(f"`out`: {path.name} holds rows of another protocol ({', '.join(changed)} differ)")
        for row in lines[1:]:
            row["metrics"] = {key: math.nan if value is None else value for key, value in row["metrics"].items()}
            self.add(row)

    @staticmethod
    def key(codec: Codec, clip: int) -> tuple[str, str, int]:
        return codec.name, codec.fingerprint, clip

    def add(self, row: dict):
        self.by_key[row["system"], row["fingerprint"], row["clip"]] = row

    def append(self, row: dict):
        self.add(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(dump(row) + "\n")


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
        data (`str` or `Path`): Parquet file, see [`read_clips`].
        out (`str` or `Path`): Directory of the rows.
        limit (`int`, *optional*): First clips of the file to use.
        workers (`int`, *optional*, defaults to 0): Processes for the metrics; 0 measures in this one. The rows are the
            same, in the same order, apart from `codec_seconds`. Codecs always run in this process.

    Returns:
        `list[list[dict]]`: For each codec its rows, one a clip, in the order of the file.

    Raises:
        ValueError: Two codecs have one name, the data has no clips, or the rows on disk are of another protocol.
    """
    names = [codec.name for codec in codecs]
    if len(set(names)) < len(names):
        raise ValueError(f"`codecs` must have names of their own, got {names}")
    rows = Rows(Path(out) / "rows.jsonl", protocol(data))
    num_rows = parquet.read_metadata(data).num_rows
    num_clips = num_rows if limit is None else min(limit, num_rows)
    if num_clips < 1:
        raise ValueError(f"`limit`: no clips in {Path(data).name} with limit {limit}")

    pending = deque()  # (row, future), oldest first, so that rows are written in the order of a serial run
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context) if workers else None

    def finish_oldest():
        row, future = pending.popleft()
        rows.append({**row, **future.result()})
        bar.update()

    try:
        with tqdm(total=len(codecs) * num_clips, unit="clip") as bar:
            for codec in codecs:
                bar.set_description(codec.name)
                for clip in read_clips(data, num_clips):
                    if rows.key(codec, clip.index) in rows.by_key:
                        bar.update()
                        continue
                    row, reference, degraded = run_codec(codec, clip)
                    if pool is not None and reference is not None:
                        pending.append((row, pool.submit(measure, reference, degraded)))
                        if len(pending) > QUEUE * workers:
                            finish_oldest()
                        continue
                    while pending:
                        finish_oldest()
                    rows.append(row if reference is None else {**row, **measure(reference, degraded)})
                    bar.update()
            while pending:
                finish_oldest()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return [[rows.by_key[rows.key(codec, index)] for index in range(num_clips)] for codec in codecs]


# ----- the table


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
        `dict`: The table, ready for JSON but for NaN. `kbps` is all bits over all seconds of the clips that were
            coded; `failures` are counts by stage (`clip`, `codec` or a metric) and reason.

    Raises:
        ValueError: `compare_to` is no system of the table.
    """
    names = [codec.name for codec in codecs]
    if compare_to is not None and compare_to not in names:
        raise ValueError(f"`compare_to` must be one of {names}, got {compare_to!r}")
    values = {
        name: {metric: np.array([row["metrics"][metric] for row in clips]) for metric in METRICS}
        for name, clips in zip(names, rows, strict=True)
    }
    systems = {}
    for codec, clips in zip(codecs, rows, strict=True):
        coded = [row for row in clips if row["bits"] is not None]
        seconds = sum(row["seconds"] for row in coded)
        codec_seconds = sum(row["codec_seconds"] for row in coded)
        lags = [row["lag"] for row in clips if row["lag"] is not None]
        systems[codec.name] = {
            "fingerprint": codec.fingerprint,
            "n_coded": len(coded),
            "seconds": round(seconds, 3),
            "kbps": sum(row["bits"] for row in coded) / seconds / 1000 if coded else math.nan,
            # Copying a clip is not coding it.
            "times_real_time": seconds / codec_seconds if codec_seconds and codec.name != Original.name else math.nan,
            "median_lag": float(np.median(lags)) if lags else math.nan,
            "n_shifted": sum(row["shift"] != 0 for row in clips),
            "metrics": {metric: asdict(summarize(values[codec.name][metric], seed=seed)) for metric in METRICS},
            "failures": {
                stage: dict(Counter(row["failures"][stage] for row in clips if stage in row["failures"]).most_common())
                for stage in ("clip", "codec", *METRICS)
                if any(stage in row["failures"] for row in clips)
            },
        }

    comparisons = {}
    for name in names if compare_to is not None else []:
        if name == compare_to:
            continue
        comparisons[name] = {}
        for metric in METRICS:
            first, second = values[name][metric], values[compare_to][metric]
            differences = paired_differences(first, second)
            low, high = bootstrap_interval(differences, seed=seed) if differences.size > 1 else (math.nan, math.nan)
            comparisons[name][metric] = {
                "n": differences.size,
                "difference": float(differences.mean()) if differences.size else math.nan,
                "low": low,
                "high": high,
                "p": paired_permutation_test(first, second, seed=seed) if differences.size else math.nan,
            }
    return {
        "protocol": protocol,
        "seed": seed,
        "n_clips": len(rows[0]),
        "systems": systems,
        "compare_to": compare_to,
        "comparisons": comparisons,
    }


def worst_failures(table: dict) -> int:
    """The most clips that any cell of the table misses."""
    return max(cell["n_failed"] for system in table["systems"].values() for cell in system["metrics"].values())


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _estimate(mean: float, low: float, high: float, digits: int) -> str:
    interval = "" if math.isnan(low) else f" [{_number(low, digits)}, {_number(high, digits)}]"
    return _number(mean, digits) + interval


def markdown(table: dict) -> str:
    """The table as Markdown: means, intervals and failures; then comparisons, reasons of failures, the protocol."""
    lines = [
        _row(["system", "kbps", "x real time", *(metric.label for metric in METRICS.values())]),
        _row(["---"] * (3 + len(METRICS))),
    ]
    for name, system in table["systems"].items():
        cells = [name, _number(system["kbps"], 2), _number(system["times_real_time"], 0)]
        for key, metric in METRICS.items():
            cell = system["metrics"][key]
            text = _estimate(cell["mean"], cell["low"], cell["high"], metric.digits)
            cells.append(text + (f" (n_failed {cell['n_failed']})" if cell["n_failed"] else ""))
        lines.append(_row(cells))
    lines += [
        "",
        f"n = {table['n_clips']} clips a system, less n_failed where given. Mean [95 % interval, percentile bootstrap"
        f" over clips, seed {table['seed']}]. kbps: all bits over all seconds. x real time: encoding and decoding.",
    ]

    if table["comparisons"]:
        lines += [
            "",
            f"Difference to {table['compare_to']} on the same clips [95 % interval], p of a two-sided paired"
            " permutation test, not corrected for the number of tests:",
            "",
            _row(["system", *(metric.label for metric in METRICS.values())]),
            _row(["---"] * (1 + len(METRICS))),
        ]
        for name, cells in table["comparisons"].items():
            texts = []
            for key, metric in METRICS.items():
                cell = cells[key]
                text = _estimate(cell["difference"], cell["low"], cell["high"], metric.digits)
                texts.append(text if text == "-" else f"{text}, p {cell['p']:.2g}, n {cell['n']}")
            lines.append(_row([name, *texts]))

    failures = []
    for name, system in table["systems"].items():
        for stage, reasons in system["failures"].items():
            texts = [f"{count} x {reason}" for reason, count in list(reasons.items())[:REASONS]]
            more = [f"and {len(reasons) - REASONS} other reasons"] if len(reasons) > REASONS else []
            failures.append(f"- {name}, {stage}: {'; '.join(texts + more)}")
    if failures:
        lines += ["", "Failures (NaN, counted, not averaged):", "", *failures]

    lines += ["", "Residual lag (median, in samples; positive: late) and clips shifted by theirs:", ""]
    lines += [
        f"- {name}: {_number(system['median_lag'], 1)}, {system['n_shifted']} of {table['n_clips']}"
        for name, system in table["systems"].items()
    ]
    lines += ["", "Protocol:", ""]
    for key, value in table["protocol"].items():
        text = ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else value
        lines.append(f"- {key}: {text}")
    return "\n".join(lines) + "\n"


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
    (options.out / "table.json").write_text(dump(table, indent=2) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(markdown(table), encoding="utf-8")
    sys.stdout.write(markdown(table))
    failures = worst_failures(table)
    if failures > options.max_failures:
        sys.stderr.write(f"{failures} clips failed in one cell, --max-failures is {options.max_failures}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
