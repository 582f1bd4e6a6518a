"""
Trains and measures recipes side by side: one row a recipe, mean and spread over seeds.

    python training/ablate.py --recipes training/recipes/codec/table5/*.yaml --seeds 0 1 2 --data-root data \
        --test data/open-prompts/test-00000-of-00001.parquet --output-dir runs/table5 --set steps=2000

Every recipe gets the same `--set` changes, so the same budget. Run the command again and it goes on: finished runs are left
alone, unfinished ones resume, measured clips are not measured again. `table.md` and `table.json` come last.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from recipe import load_recipe

from hf_affectcodec.benchmarks.codec_table import METRICS, dump, protocol, run, tabulate
from hf_affectcodec.benchmarks.codecs import AudioTokenizationCodec


SCRIPT = Path(__file__).with_name("train_codec.py")


def run_folder(output_dir: Path, recipe_path: Path, seed: int) -> Path:
    return output_dir / f"{recipe_path.stem}-seed{seed}"


def train(recipe_path: Path, seed: int, args) -> Path:
    """One run, from wherever it stands; returns its folder. The run itself resumes bit for bit."""
    folder = run_folder(args.output_dir, recipe_path, seed)
    recipe = load_recipe(recipe_path, args.data_root, args.set)
    if (folder / f"checkpoint-{recipe.steps:08d}").exists() and (folder / "model/config.json").exists():
        return folder
    command = [sys.executable, str(SCRIPT), "--recipe", str(recipe_path), "--output-dir", str(folder)]
    command += ["--data-root", args.data_root, "--set", f"seed={seed}"]
    for change in args.set:
        command += ["--set", change]
    if any(folder.glob("checkpoint-????????")):
        command.append("--resume")
    subprocess.run(command, check=True)
    return folder


def training_seconds(folder: Path) -> float:
    """Seconds spent in steps, from the run's log."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(row.get("seconds", 0.0) for row in rows)


def _mean(values) -> float:
    """NaN if any value is: a run that could not be measured must show."""
    return float(np.mean(list(values)))


def summarize(table: dict, folders: dict[str, list[Path]]) -> list[dict]:
    """
    Rows `{"recipe", "seeds", "training_minutes", metric: {"mean", "low", "high", "spread", "n_failed"}}`.

    `mean`, `low` and `high` are the averages over seeds of each run's mean and 95 % interval over clips; `spread` is the
    standard deviation of the runs' means over seeds (`None` with one seed). A difference smaller than either is no result.
    """
    rows = []
    for name, runs in folders.items():
        cells = [table["systems"][folder.name]["metrics"] for folder in runs]
        row = {
            "recipe": name,
            "seeds": len(runs),
            "training_minutes": _mean(training_seconds(folder) for folder in runs) / 60,
        }
        for metric in METRICS:
            means = [cell[metric]["mean"] for cell in cells]
            row[metric] = {
                "mean": _mean(means),
                "low": _mean(cell[metric]["low"] for cell in cells),
                "high": _mean(cell[metric]["high"] for cell in cells),
                "spread": float(np.std(means, ddof=1)) if len(means) > 1 else None,
                "n_failed": sum(cell[metric]["n_failed"] for cell in cells),
            }
        rows.append(row)
    return rows


def markdown(rows: list[dict]) -> str:
    lines = ["| recipe | seeds | training min | " + " | ".join(metric.label for metric in METRICS.values()) + " |"]
    lines.append("| --- " * (3 + len(METRICS)) + "|")
    for row in rows:
        cells = []
        for name, metric in METRICS.items():
            value = row[name]
            spread = "" if value["spread"] is None else f" ± {value['spread']:.{metric.digits}f}"
            interval = f"[{value['low']:.{metric.digits}f}, {value['high']:.{metric.digits}f}]"
            cells.append(f"{value['mean']:.{metric.digits}f}{spread} {interval}")
        lines.append(
            f"| {row['recipe']} | {row['seeds']} | {row['training_minutes']:.1f} | " + " | ".join(cells) + " |"
        )
    lines.append("\nMean over seeds ± standard deviation over seeds [95 % interval over clips, averaged over seeds].")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", required=True, nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--test", required=True, type=Path, help="Parquet file of clips to measure on")
    parser.add_argument("--limit", type=int, default=None, help="measure on this many clips only")
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of every recipe"
    )
    args = parser.parse_args(arguments)
    for path in args.recipes:
        load_recipe(path, args.data_root, args.set)
    folders = {path.stem: [train(path, seed, args) for seed in args.seeds] for path in args.recipes}
    codecs = [
        AudioTokenizationCodec.from_pretrained(folder / "model", name=folder.name)
        for runs in folders.values()
        for folder in runs
    ]
    measured = run(codecs, args.test, args.output_dir / "measured", args.limit)
    rows = summarize(tabulate(codecs, measured, protocol(args.test)), folders)
    (args.output_dir / "table.json").write_text(dump(rows, indent=2) + "\n", encoding="utf-8")
    (args.output_dir / "table.md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    main()
