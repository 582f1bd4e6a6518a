"""
Curves of a sweep: scores of runs of `train_emodistill.py` over one of the student's settings.

    python training/emodistill_curves.py --setting linguistic_temperature --out curves.png \\
        runs/voices/tau-l-1 runs/voices/tau-l-2 runs/emodistill runs/voices/tau-l-8 runs/voices/tau-l-16
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from hf_affectcodec.modeling.configuration_emodistill import EmoDistillConfig


SCORES = ("weighted_accuracy", "unweighted_accuracy", "macro_f1")


def read_curve(folders: Sequence[Path], setting: str) -> list[dict]:
    """
    Args:
        folders: Each with the `results.json` of a run.
        setting: Field of [`EmoDistillConfig`].

    Returns:
        `list[dict]`: By rising `value` of the setting: for each score its mean over folds, and `low` and `high`.

    Raises:
        ValueError: There is no such setting, or the runs differ in another setting of the student too.
    """
    points, others = [], []
    for folder in folders:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        config = EmoDistillConfig(**found["recipe"]["model"]).to_dict()
        if setting not in config:
            raise ValueError(f"`setting` must be a field of EmoDistillConfig, got {setting!r}")
        points.append({"value": config.pop(setting), **{name: found[name]["folds"] for name in SCORES}})
        others.append(config)
    differing = sorted(key for config in others for key in config if config[key] != others[0][key])
    if differing:
        raise ValueError(f"`folders`: the runs differ in `{differing[0]}` too")
    return sorted(points, key=lambda point: point["value"])


def draw(points: list[dict], setting: str, path: Path):
    """A line for each score, with its interval over folds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    values = [point["value"] for point in points]
    for name in SCORES:
        means, lows, highs = ([point[name][key] for point in points] for key in ("mean", "low", "high"))
        axes.plot(values, means, marker="o", label=name.replace("_", " "))
        axes.fill_between(values, lows, highs, alpha=0.12)
    axes.set_xscale("log", base=2)
    axes.set_xlabel(setting.replace("_", " "))
    axes.set_ylabel("mean of folds")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="runs")
    parser.add_argument("--setting", required=True, help="field of EmoDistillConfig that the runs differ in")
    parser.add_argument("--out", required=True, type=Path, help="picture (png, svg, pdf)")
    args = parser.parse_args(arguments)
    points = read_curve(args.folders, args.setting)
    draw(points, args.setting, args.out)
    print(json.dumps(points, indent=1))


if __name__ == "__main__":
    main()
