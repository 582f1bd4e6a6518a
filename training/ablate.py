"""
Trains and measures recipes side by side: one row a recipe, mean and spread over seeds.

    python training/ablate.py --recipes training/recipes/codec/table5/*.yaml --seeds 0 1 2 --data-root data \
        --evaluate open-prompts expressive-voices --evaluate-set words.source=openai/whisper-base \
        --output-dir runs/table5 --set steps=2000

Every recipe gets the same `--set` changes, so the same budget. `--evaluate` names configurations of `affectcodec evaluate
codec`, whose systems are the runs instead of its own; each gives a table, `table-NAME.md` and `table-NAME.json`. `--compare-to
RECIPE` adds every other recipe's difference to it, on the same clips and seeds. Run the command
again and it goes on: finished runs are left alone, unfinished ones resume, measured clips are not measured again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from recipe import load_recipe

from hf_affectcodec.benchmarks.evaluate_codec import CodecEvaluation, evaluate
from hf_affectcodec.benchmarks.rows import dump
from hf_affectcodec.benchmarks.settings import config_path
from hf_affectcodec.metrics.statistics import compare_pairs
from hf_affectcodec.settings import build_dataclass, read_yaml


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
    Rows `{"recipe", "seeds", "training_minutes", column: {"mean", "low", "high", "spread", "n_failed"}}`.

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
        for column in table["columns"]:
            if not all(column in cell for cell in cells):
                continue
            means = [cell[column]["mean"] for cell in cells]
            row[column] = {
                "mean": _mean(means),
                "low": _mean(cell[column]["low"] for cell in cells),
                "high": _mean(cell[column]["high"] for cell in cells),
                "spread": float(np.std(means, ddof=1)) if len(means) > 1 else None,
                "n_failed": sum(cell[column]["n_failed"] for cell in cells),
            }
        rows.append(row)
    return rows


def markdown(rows: list[dict], columns: dict[str, dict]) -> str:
    columns = {name: column for name, column in columns.items() if all(name in row for row in rows)}
    lines = ["| recipe | seeds | training min | " + " | ".join(c["label"] for c in columns.values()) + " |"]
    lines.append("| --- " * (3 + len(columns)) + "|")
    for row in rows:
        cells = []
        for name, column in columns.items():
            value, digits = row[name], column["digits"]
            spread = "" if value["spread"] is None else f" ± {value['spread']:.{digits}f}"
            interval = "" if np.isnan(value["low"]) else f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
            failed = f" (n_failed {value['n_failed']})" if value["n_failed"] else ""
            cells.append(f"{value['mean']:.{digits}f}{spread}{interval}{failed}")
        lines.append(
            f"| {row['recipe']} | {row['seeds']} | {row['training_minutes']:.1f} | " + " | ".join(cells) + " |"
        )
    lines.append("\nMean over seeds ± standard deviation over seeds [95 % interval over clips, averaged over seeds].")
    return "\n".join(lines) + "\n"


def read_clips(path: Path, folders: dict[str, list[Path]], columns) -> dict[str, dict[str, np.ndarray]]:
    """Per recipe and column: values [S, N] over seeds and clips, NaN where a clip could not be measured."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_system = {}
    for row in sorted(rows, key=lambda row: row["clip"]):
        by_system.setdefault(row["system"], []).append(row)
    return {
        name: {
            column: np.array([[row[column] for row in by_system[folder.name]] for folder in runs], dtype=float)
            for column in columns
            if all(column in row for folder in runs for row in by_system[folder.name])
        }
        for name, runs in folders.items()
    }


def differences(clips: dict[str, dict[str, np.ndarray]], compare_to: str) -> dict[str, dict]:
    """
    Per recipe and column: `{"n", "difference", "low", "high", "p", "by_seed"}` of its difference to the recipe `compare_to`.

    Values are averaged over seeds, then paired clip by clip: `low` and `high` bound 95 % of a bootstrap over clips, `p` is of
    a two-sided paired permutation test, not corrected for the number of tests. Both speak of other clips, not of other
    seeds; `by_seed` holds the mean difference of each seed, and where these differ in sign there is no result.
    """
    base = clips[compare_to]
    found = {}
    for name, columns in clips.items():
        if name == compare_to:
            continue
        found[name] = {}
        for column in columns.keys() & base.keys():
            ours, theirs = columns[column], base[column]
            found[name][column] = {
                **compare_pairs(ours.mean(axis=0), theirs.mean(axis=0)),
                "by_seed": [compare_pairs(one, other)["difference"] for one, other in zip(ours, theirs, strict=True)],
            }
    return found


def differences_markdown(found: dict[str, dict], columns: dict[str, dict], compare_to: str) -> str:
    names = [name for name in columns if all(name in cells for cells in found.values())]
    lines = [
        f"Difference to {compare_to} on the same clips and seeds [95 % interval over clips], p (not corrected):\n"
    ]
    lines += [
        "| recipe | " + " | ".join(columns[name]["label"] for name in names) + " |",
        "| --- " * (1 + len(names)) + "|",
    ]
    for recipe, cells in found.items():
        texts = []
        for name in names:
            cell, digits = cells[name], columns[name]["digits"] + 1
            if cell["n"] == 0:
                texts.append("-")
                continue
            same_sign = min(cell["by_seed"]) > 0 or max(cell["by_seed"]) < 0
            texts.append(
                f"{cell['difference']:+.{digits}f} [{cell['low']:+.{digits}f}, {cell['high']:+.{digits}f}], p {cell['p']:.2g}"
                + ("" if same_sign else " (seeds disagree)")
            )
        lines.append(f"| {recipe} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def load_evaluation(name: str, args) -> CodecEvaluation:
    settings = build_dataclass(CodecEvaluation, read_yaml(config_path(name), args.evaluate_set), f"`{name}`")
    settings.data = settings.data.replace("{data_root}", args.data_root)
    settings.baselines, settings.compare_to, settings.limit = [], None, args.limit or settings.limit
    return settings


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", required=True, nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--evaluate", required=True, nargs="+", help="YAML files, or names that come with the package")
    parser.add_argument(
        "--evaluate-set", action="append", default=[], metavar="KEY=VALUE", help="change a value of every evaluation"
    )
    parser.add_argument("--limit", type=int, default=None, help="measure on this many clips only")
    parser.add_argument("--compare-to", metavar="RECIPE", help="name of the recipe that the others are tested against")
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of every recipe"
    )
    args = parser.parse_args(arguments)
    # Whatever is wrong with a file is said before hours are spent.
    for path in args.recipes:
        load_recipe(path, args.data_root, args.set)
    names = [path.stem for path in args.recipes]
    if args.compare_to is not None and (args.compare_to not in names or len(names) < 2):
        raise ValueError(f"`--compare-to` must be one of two or more recipes, {names}, got {args.compare_to!r}")
    evaluations = {Path(name).stem: load_evaluation(name, args) for name in args.evaluate}
    folders = {path.stem: [train(path, seed, args) for seed in args.seeds] for path in args.recipes}
    for name, settings in evaluations.items():
        settings.models = {
            folder.name: {"source": str(folder / "model")} for runs in folders.values() for folder in runs
        }
        table = evaluate(settings, args.output_dir / f"measured-{name}")
        rows = summarize(table, folders)
        text = markdown(rows, table["columns"])
        if args.compare_to is not None:
            clips = read_clips(args.output_dir / f"measured-{name}/clips.jsonl", folders, table["columns"])
            found = differences(clips, args.compare_to)
            (args.output_dir / f"differences-{name}.json").write_text(dump(found, indent=2) + "\n", encoding="utf-8")
            text += "\n" + differences_markdown(found, table["columns"], args.compare_to)
        (args.output_dir / f"table-{name}.json").write_text(dump(rows, indent=2) + "\n", encoding="utf-8")
        (args.output_dir / f"table-{name}.md").write_text(text, encoding="utf-8")
        print(f"{name}\n\n{text}")


if __name__ == "__main__":
    main()
