"""
How many hours of audio an hour `training/tokenize_corpus.py` turns into codes, by the number of processes, and how long
larger corpora would take.

    python -m hf_affectcodec.benchmarks.tokenizing --source "data/open-prompts/train-*.parquet" --processes 1 2 --rounds 3

Numbers of processes take turns, each run into a folder of its own that is thrown away. A run's rate is the hours of all
processes over the seconds of the slowest; starting up and loading the model are not in it. One thread a process. Needs a
checkout (the script is not part of the package) and cores that nobody else uses.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm.auto import tqdm


SAID = re.compile(
    r"rank \d+ of (?P<ranks>\d+): (?P<clips>\d+) clips, (?P<skipped>\d+) skipped, "
    r"(?P<hours>[\d.]+) h of audio in (?P<seconds>[\d.]+) s"
)


def parse_rate(text: str, processes: int) -> tuple[float, float]:
    """
    Hours of audio, and hours of audio an hour, out of what all processes of a run print.

    Raises:
        `ValueError`: not every process said what it did, or none had anything to do.
    """
    said = list(SAID.finditer(text))
    if len(said) != processes or any(int(match["ranks"]) != processes for match in said):
        raise ValueError(f"{len(said)} of {processes} processes said what they did")
    hours, seconds = sum(float(match["hours"]) for match in said), max(float(match["seconds"]) for match in said)
    if not seconds:
        raise ValueError("the run took no time: the corpus is too small to be timed")
    return hours, 3600 * hours / seconds


def run_once(script: Path, processes: int, arguments: list[str]) -> tuple[float, float]:
    """One run; see [`parse_rate`]."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *(launcher if processes > 1 else []), str(script), *arguments]
        done = subprocess.run(
            [*command, "--output-dir", folder],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ValueError(f"{script}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return parse_rate(done.stdout, processes)


def duration(hours: float) -> str:
    """Hours in a unit that one reads easily."""
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def table(rates: dict[int, list[float]], corpora: list[float]) -> str:
    """Markdown, from the rates of each number of processes; the first row is what the others are compared with."""
    first = statistics.median(next(iter(rates.values())))
    head = [
        "processes",
        "hours an hour, median (range)",
        "x first row",
        *(f"{hours:,.0f} h take" for hours in corpora),
    ]
    rows = [head, ["---"] * len(head)]
    for processes, values in rates.items():
        rate = statistics.median(values)
        spread = f"{rate:.0f} ({min(values):.0f} to {max(values):.0f})"
        rows.append([str(processes), spread, f"{rate / first:.2f}", *(duration(hours / rate) for hours in corpora)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="as `tokenize_corpus.py` takes it")
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", default=None, help="Hub id or folder (default: the shipped checkpoint)")
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument(
        "--shard-clips", type=int, default=100, help="clips a file: few, so that each process has some"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hours", type=float, nargs="+", default=[2_300.0, 100_000.0], help="corpora to project to")
    parser.add_argument("--script", type=Path, default=Path("training/tokenize_corpus.py"))
    args = parser.parse_args(arguments)
    if not args.script.is_file():
        raise ValueError(f"`--script` {str(args.script)!r} is no file; run this in a checkout")
    shards = ["--streaming"] if args.streaming else ["--shard-clips", str(args.shard_clips)]
    given = ["--source", args.source, "--split", args.split, *shards]
    given += [] if args.model is None else ["--model", args.model]
    rates, hours = {processes: [] for processes in args.processes}, 0.0
    for _ in tqdm(range(args.rounds), desc="rounds"):
        for processes, values in rates.items():
            hours, rate = run_once(args.script, processes, given)
            values.append(rate)
    print(
        f"{args.source}, {hours:.2f} h, {args.model or 'the shipped checkpoint'}, "
        f"{'streamed' if args.streaming else 'read from disk'}; {os.cpu_count()} cores, one thread a process, "
        f"{args.rounds} rounds\n"
    )
    print(table(rates, args.hours))
    print(
        "\nWhat they take is their hours over the rate: clips of this kind and length, this machine, reading that keeps "
        "up, no restarts. More machines divide it, as their files do not depend on each other."
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"tokenizing: error: {' '.join(str(error).split())}")
