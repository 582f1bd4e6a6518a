"""
What tokens cost: a table and a picture of the runs of `train_token_fusion.py`.

    python training/report_token_fusion.py --runs runs/expressive-voices/* --reference continuous \\
        --baselines baselines.json --streams data/streams/whisper-base-all --out report

Each run is an output folder, or a folder of such, `seed-0`, `seed-1`, ...; it is called by the folder's name. Macro-F1 is the
mean over the folds (a speaker each; of several seeds the mean) with its bootstrap interval over them, and that of all clips
together, beside their unweighted (UA) and weighted accuracy (WA). `--reference` (by default the best run without quantisation) is
what the others are compared with: difference and share of its macro-F1 over the folds that both have, with the difference's
interval and the p value of a paired permutation test over folds, uncorrected for the number of rows. The majority's score is
computed; `--baselines` adds others, a JSON file `{name: {speaker: macro-F1}}`.

`OUT/report.md` is the table, `OUT/report.json` its numbers. `OUT/degradation.png` draws macro-F1 against K, layers and bitrate.
With `--streams`, the folder where the runs kept what their encoder made of the clips, `OUT/layer-attention.png` is the mean
weight of each layer over the clips of each run that were tested, from the models that never heard them.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tqdm.auto import tqdm
from transformers import AutoConfig

from hf_affectcodec.metrics.classification import ClassificationScores, classification_scores
from hf_affectcodec.metrics.statistics import paired_permutation_test, summarize
from hf_affectcodec.modeling.configuration_token_fusion import TokenFusionConfig
from hf_affectcodec.modeling.modeling_token_fusion import TokenFusionForAudioClassification


CONTINUOUS, TOKENS, OPENSMILE = "#1b7f5c", "#3b5bdb", "#d9480f"  # colours
NAMED = 14  # systems in a panel up to which each has its name beside it


@dataclass
class Run:
    """
    Args:
        name (`str`): Of its folder.
        folders (`list[Path]`): Outputs of `train_token_fusion.py`, one a seed.
        config ([`TokenFusionConfig`]): Of its first fold's model.
        predictions (`list[dict[str, dict]]`): Of each seed, by the folds' speakers, what `predictions.json` holds.
    """

    name: str
    folders: list[Path]
    config: TokenFusionConfig
    predictions: list[dict[str, dict]]

    @property
    def scores(self) -> dict[str, float]:
        """Macro-F1 by the folds' speakers, mean over the seeds that have the fold."""
        values = {}
        for seed in self.predictions:
            for speakers, fold in seed.items():
                values.setdefault(speakers, []).append(_scores([fold]).macro_f1)
        return {speakers: float(np.mean(scores)) for speakers, scores in values.items()}

    @property
    def all_clips(self) -> dict[str, float]:
        """Scores of all clips together, mean over seeds, and the seeds' standard deviation of macro-F1 (0 for one seed)."""
        seeds = [_scores(list(seed.values())) for seed in self.predictions]
        names = ("macro_f1", "unweighted_accuracy", "weighted_accuracy")
        means = {name: float(np.mean([getattr(seed, name) for seed in seeds])) for name in names}
        return {**means, "seeds": len(seeds), "macro_f1_std_over_seeds": float(np.std([s.macro_f1 for s in seeds]))}

    @property
    def num_streams(self) -> int:
        """Streams that the classifier reads."""
        return 1 if self.config.layer_fusion == "single" else self.config.num_streams

    @property
    def single_layer(self) -> int | None:
        """The encoder's layer, or the codec's codebook from 0, of a system that reads only one."""
        config = self.config
        if config.layer_fusion != "single" or config.tokenizer_layers is None:
            return config.single_stream
        return config.tokenizer_layers[config.single_stream]

    @property
    def bitrate(self) -> float | None:
        """Bits per second of the tokens that the classifier reads; `None` without quantisation."""
        config = self.config
        if not config.quantized:
            return None
        frame_rate = config.tokenizer_frame_rate
        if config.tokenizer_kind == "codec":
            codec = AutoConfig.from_pretrained(config.tokenizer_model, revision=config.tokenizer_revision)
            frame_rate = codec.sampling_rate / codec.hop_length
        return frame_rate * self.num_streams * math.log2(config.vocab_size)


def read_run(folder: Path) -> Run:
    """
    Raises:
        ValueError: The folder holds no fold that is done.
    """
    folders = sorted(folder.glob("seed-*")) or [folder]
    predictions = [_read_folds(part) for part in folders]
    config = TokenFusionConfig.from_pretrained(next(folders[0].glob("fold-*/model")))
    return Run(folder.name, folders, config, predictions)


def _read_folds(folder: Path) -> dict[str, dict]:
    paths = sorted(folder.glob("fold-*/predictions.json"))
    if not paths:
        raise ValueError(f"`--runs`: {folder} holds no fold-*/predictions.json")
    folds = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {" ".join(fold["speakers"]): fold for fold in folds}


def _scores(folds: list[dict]) -> ClassificationScores:
    labels = [label for fold in folds for label in fold["labels"]]
    predicted = [int(np.argmax(row)) for fold in folds for row in fold["logits"]]
    return classification_scores(labels, predicted, range(len(folds[0]["logits"][0])))


def majority_scores(run: Run) -> dict[str, float]:
    """Macro-F1 by fold of the class that is most frequent among the other folds' clips."""
    scores = {}
    folds = run.predictions[0]
    for speakers, fold in folds.items():
        others = [label for name, other in folds.items() if name != speakers for label in other["labels"]]
        most = int(np.bincount(others).argmax())
        scores[speakers] = classification_scores(
            fold["labels"], [most] * len(fold["labels"]), range(run.config.num_labels)
        ).macro_f1
    return scores


def compare(scores: dict[str, float], reference: dict[str, float]) -> dict | None:
    """Difference to the reference over the folds that both have; `None` where these are fewer than two."""
    shared = [speakers for speakers in reference if speakers in scores]
    if len(shared) < 2:
        return None
    ours, theirs = ([part[speakers] for speakers in shared] for part in (scores, reference))
    difference = summarize(np.subtract(ours, theirs))
    return {
        "folds": len(shared),
        "difference": asdict(difference),
        "ratio": float(np.mean(ours) / np.mean(theirs)),
        "p": paired_permutation_test(ours, theirs),
    }


def build_report(runs: list[Run], baselines: dict[str, dict[str, float]], reference: str | None = None) -> dict:
    """
    Args:
        runs (`list[Run]`): Runs on the same clips.
        baselines (`dict`): Name to macro-F1 by fold.
        reference (`str`, *optional*): Name of a run or baseline; default: the run without quantisation of the best mean.

    Returns:
        `dict`: `reference`, and `systems`: by name `layers`, `clusters`, `bitrate`, `quantized`, `opensmile` (`None` for
        baselines), `macro_f1` (a summary over folds), `all_clips` ([`Run.all_clips`]) and `against_reference`.

    Raises:
        ValueError: Two runs have one name, or there is no such reference.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"`--runs` has two folders of one name: {sorted(names)}")
    fullest = max(runs, key=lambda run: len(run.predictions[0]))
    baselines = {"majority": majority_scores(fullest), **baselines}
    scores = {**baselines, **{run.name: run.scores for run in runs}}
    if reference is None:
        continuous = [run.name for run in runs if not run.config.quantized]
        if not continuous:
            raise ValueError("`--reference` must be named: no run is without quantisation")
        reference = max(continuous, key=lambda name: np.mean(list(scores[name].values())))
    if reference not in scores:
        raise ValueError(f"`--reference` must be one of {list(scores)}, got {reference!r}")
    systems = {}
    for name, by_fold in scores.items():
        run = next((run for run in runs if run.name == name), None)
        systems[name] = {
            "layers": run and run.num_streams,
            "clusters": run and (run.config.vocab_size if run.config.quantized else None),
            "bitrate": run and run.bitrate,
            "quantized": run and run.config.quantized,
            "opensmile": run and run.config.opensmile_fusion,
            "single_layer": run and run.single_layer,
            "macro_f1": asdict(summarize(list(by_fold.values()))),
            "all_clips": run and run.all_clips,
            "against_reference": None if name == reference else compare(by_fold, scores[reference]),
        }
    return {"reference": reference, "systems": systems}


def markdown(report: dict) -> str:
    """The table of a report."""

    def cell(value, form):
        return "" if value is None else form.format(value)

    lines = [
        "| system | streams | K | bit/s | openSMILE | folds | seeds | macro-F1 | all clips | UA | WA |"
        f" minus {report['reference']} | share | p |",
        "|" + "---|" * 14,
    ]
    for name, row in report["systems"].items():
        score, against = row["macro_f1"], row["against_reference"]
        together = row["all_clips"] or dict.fromkeys(("seeds", "macro_f1", "unweighted_accuracy", "weighted_accuracy"))
        compared = ["", "", ""]
        if against is not None:
            difference = against["difference"]
            compared = [
                f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]",
                f"{against['ratio']:.0%}",
                f"{against['p']:.3f}",
            ]
        cells = [
            name,
            cell(row["layers"], "{}"),
            "continuous" if row["quantized"] is False else cell(row["clusters"], "{}"),
            cell(row["bitrate"], "{:.0f}"),
            cell(row["opensmile"], "{}"),
            str(score["n"]),
            cell(together["seeds"], "{}"),
            f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]",
            *(cell(together[name], "{:.3f}") for name in ("macro_f1", "unweighted_accuracy", "weighted_accuracy")),
            *compared,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "A row with fewer folds is of fewer voices: compare it by its difference alone, which is over shared folds.",
    ]
    return "\n".join(lines) + "\n"


@torch.no_grad()
def layer_attention(run: Run, streams: Path) -> np.ndarray:
    """
    Mean weight of each stream over the frames of the clips that were tested, `[folds, streams]`; of the first seed.

    Raises:
        ValueError: A tested clip is not among `streams`.
    """
    places = {}
    for path in sorted(streams.glob("streams-*.safetensors")):
        with safe_open(path, "pt") as file:
            names = json.loads(file.metadata()["settings"])["names"]
            places |= {names[int(key)]: (path, key) for key in file.keys()}  # noqa: SIM118
    weights = []
    for speakers, fold in tqdm(run.predictions[0].items(), desc=run.name, leave=False):
        missing = [name for name in fold["names"] if name not in places]
        if missing:
            raise ValueError(f"`--streams`: {streams} lacks {missing[0]!r} of {run.name}, {speakers}")
        folder = next(
            path.parent
            for path in run.folders[0].glob("fold-*/predictions.json")
            if json.loads(path.read_text(encoding="utf-8"))["names"] == fold["names"]
        )
        model = TokenFusionForAudioClassification.from_pretrained(folder / "model").eval()
        totals, frames = 0, 0
        for name in fold["names"]:
            path, key = places[name]
            with safe_open(path, "pt") as file:
                values = file.get_tensor(key)[None]
            attention = model.fusion(*_fusion_inputs(model, values))[1]
            totals, frames = totals + attention.sum((0, 1)), frames + attention.shape[1]
        weights.append((totals / frames).numpy())
    return np.stack(weights)


def _fusion_inputs(model, values):
    """Cached streams [1, T, L(, C)] as [`TokenFusionLayerFusion`] takes them."""
    if model.config.quantized and values.is_floating_point():
        values = model.features_to_tokens(values.float())
    vectors = model._vectors(*((values, None) if model.config.quantized else (None, values.float())))
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    return vectors, mask, torch.ones(1, vectors.shape[2], dtype=torch.bool)


def _figure(width: float, height: float):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture needs `matplotlib`: pip install 'hf-affectcodec[train]'") from error
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_degradation(report: dict):
    """
    A matplotlib figure: macro-F1 against K, against the layer of single layers, and against bitrate. A hollow dot has fewer
    folds than others, so other voices.
    """
    systems = report["systems"]
    runs = {name: row for name, row in systems.items() if row["layers"] is not None}
    tokens = {name: row for name, row in runs.items() if row["quantized"]}
    panels = [
        ("K (clusters a layer)", {n: row["clusters"] for n, row in tokens.items() if row["single_layer"] is None}),
        ("layer, alone", {n: row["single_layer"] for n, row in runs.items() if row["single_layer"] is not None}),
        ("bit/s", {n: row["bitrate"] for n, row in tokens.items()}),
    ]
    panels = [(label, values) for label, values in panels if values]
    figure = _figure(1.5 + 4.8 * len(panels), 5.2)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (label, values) in zip(axes, panels, strict=True):
        _draw_panel(axis, systems, values, report["reference"])
        axis.set_xlabel(label)
    axes[0].set_ylabel("macro-F1, mean of folds, 95 % interval")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def _draw_panel(axis, systems: dict, values: dict[str, float], reference: str):
    """`values`: system to its place on the x axis, whose values stand at equal distances."""
    score = systems[reference]["macro_f1"]
    axis.axhspan(score["low"], score["high"], color=CONTINUOUS, alpha=0.1, linewidth=0)
    axis.axhline(score["mean"], color=CONTINUOUS, linewidth=1, linestyle=":", label=reference)
    majority = systems["majority"]["macro_f1"]["mean"]
    axis.axhline(majority, color="#868e96", linewidth=1, linestyle="--", label="majority")
    ticks = sorted(set(values.values()))
    most = max(systems[name]["macro_f1"]["n"] for name in values)
    for name, value in values.items():
        row = systems[name]
        twins = [other for other in values if values[other] == value]
        x = ticks.index(value) + (twins.index(name) + 0.5) / len(twins) * 0.8 - 0.4
        kind, color = "continuous", CONTINUOUS
        if row["quantized"]:
            kind, color = ("tokens", TOKENS) if row["opensmile"] == "none" else ("tokens + openSMILE", OPENSMILE)
        score = row["macro_f1"]
        axis.plot([x, x], [score["low"], score["high"]], color=color, linewidth=1.8, alpha=0.6)
        face = color if score["n"] == most else "white"
        axis.plot([x], [score["mean"]], "o", color=color, markerfacecolor=face, markersize=5, label=kind)
        if len(values) <= NAMED:
            axis.annotate(
                name,
                (x, score["low"]),
                (0, -4),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="top",
                fontsize=7,
            )
    axis.set_xticks(range(len(ticks)), [f"{tick:.0f}" for tick in ticks], rotation=45 if len(ticks) > 5 else 0)
    axis.set_xlim(-0.6, len(ticks) - 0.4)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3)


def draw_layer_attention(weights: dict[str, np.ndarray], labels: dict[str, list]):
    """A matplotlib figure: for each run the weights `[folds, streams]`, a bar a stream (mean) and a dot a fold."""
    columns = min(3, len(weights))
    rows = -(-len(weights) // columns)
    figure = _figure(1 + 3.8 * columns, 0.6 + 2.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(weights) :]:
        axis.set_visible(False)
    for axis, (name, values) in zip(axes.flat, weights.items(), strict=False):
        places = np.arange(values.shape[1])
        axis.bar(places, values.mean(0), color=TOKENS, alpha=0.45, width=0.7)
        for fold in values:
            axis.plot(places, fold, ".", color="#1b1f3b", markersize=4)
        axis.axhline(1 / values.shape[1], color="#868e96", linewidth=1, linestyle="--")
        axis.set_xticks(places, [str(label) for label in labels[name]], fontsize=8)
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("layer", fontsize=9)
    figure.supylabel("mean attention weight (dots: folds; dashed: equal)", fontsize=9)
    return figure


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, type=Path, nargs="+", help="output folders of train_token_fusion.py")
    parser.add_argument("--reference", default=None, help="name of a run or baseline")
    parser.add_argument("--baselines", default=None, type=Path, help="JSON file {name: {speaker: macro-F1}}")
    parser.add_argument("--streams", default=None, type=Path, help="folder of the runs' cached streams")
    parser.add_argument("--out", required=True, type=Path)
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    runs = [read_run(folder) for folder in args.runs]
    baselines = {} if args.baselines is None else json.loads(args.baselines.read_text(encoding="utf-8"))
    report = build_report(runs, baselines, args.reference)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (args.out / "report.md").write_text(markdown(report), encoding="utf-8")
    draw_degradation(report).savefig(args.out / "degradation.png")
    if args.streams is not None:
        fused = [run for run in runs if run.config.layer_fusion in ("frame", "utterance")]
        weights = {run.name: layer_attention(run, args.streams) for run in fused}
        layers = {run.name: run.config.tokenizer_layers or range(1, run.config.num_streams + 1) for run in fused}
        draw_layer_attention(weights, layers).savefig(args.out / "layer-attention.png")
    print(markdown(report))


if __name__ == "__main__":
    main()
