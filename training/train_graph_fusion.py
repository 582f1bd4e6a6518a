"""
Trains graph fusion on features that were extracted beforehand, with speakers left out.

    accelerate launch training/train_graph_fusion.py --recipe training/recipes/graph_fusion/whisper-base.yaml \\
        --features features --output-dir runs/graph-fusion --fold 0 1 2

The features folder is what `extract_graph_features.py` writes: `items.json`, a list of `{"name", "label", "speaker"}`, and for
each modality `<modality>.safetensors` with one tensor a clip, by its name: `[T, D]` vectors or `[T]` tokens; a clip may lack a
modality. Its `preprocessor_config.json`, if there is one, is saved with each model, so that
`pipeline("audio-classification")` works on it.

A fold tests on one speaker (or `speakers_per_fold` of them), validates on the next and trains on all others; without `--fold`
every fold is run. Each leaves `OUTPUT/fold-00/model` and `fold-00/predictions.json`; folds that are done are skipped.
`OUTPUT/results.json` holds macro-F1 over the folds that are done. It is one process: folds are independent.
"""

import argparse
import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import safe_open
from sampling import class_weights, scheduled_weights
from seq_aug import seq_aug
from tqdm.auto import tqdm
from train_token_fusion import macro_f1, split_by_speaker

from hf_affectcodec.metrics.statistics import summarize
from hf_affectcodec.modeling.attention_graph_fusion import masked_statistics
from hf_affectcodec.modeling.configuration_graph_fusion import GraphFusionConfig
from hf_affectcodec.modeling.encoders_graph_fusion import pad_modalities
from hf_affectcodec.modeling.feature_extraction_graph_fusion import GraphFusionFeatureExtractor
from hf_affectcodec.modeling.modeling_graph_fusion import GraphFusionForAudioClassification
from hf_affectcodec.settings import build_dataclass, read_yaml


@dataclass
class GraphFusionRecipe:
    """
    One system. `model` holds the keyword arguments of [`GraphFusionConfig`] but the labels. The other defaults are those of
    arXiv 2506.02088.

    `sampling` is `None` (every item once an epoch) or a schedule of [`sampling.scheduled_weights`]. `standardize` names the
    modalities whose channels are z-scored with the training speakers' statistics, which are stored in the first layer (ours).
    `keep_best`: the epoch with the best macro-F1 on the validation speakers, else the last: with one validation speaker the best
    is chance. `patience` stops after so many epochs without a better one, and needs `keep_best`. With `train_on_validation` the
    validation speakers are trained on too: for a last run, when the settings are chosen. `group_by_length` makes batches of
    clips of like lengths, which need less padding.
    """

    name: str
    model: dict
    labels: list[str]
    class_weighting: bool = True
    sampling: str | None = None
    seq_aug: list[str] = field(default_factory=lambda: ["audio", "text"])
    standardize: list[str] = field(default_factory=list)
    speakers_per_fold: int = 1
    seed: int = 0
    epochs: int = 20
    patience: int | None = None
    batch_size: int = 8
    learning_rate: float = 5e-5
    min_learning_rate: float = 1e-5
    warmup_steps: int = 500
    weight_decay: float = 1e-3
    betas: list[float] | tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 10.0
    keep_best: bool = True
    train_on_validation: bool = False
    group_by_length: bool = False
    mixed_precision: str = "no"


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> GraphFusionRecipe:
    """Reads a YAML recipe; `overrides` are `KEY=VALUE`."""
    values = read_yaml(path, overrides)
    return build_dataclass(GraphFusionRecipe, values, str(path))


class FeatureItems(torch.utils.data.Dataset):
    """Clips of the wanted labels, features in memory; an item is `{modality: [T, D] or [T], "labels": int}`."""

    def __init__(self, folder: Path, modalities: Sequence[str], labels: Sequence[str]):
        rows = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        rows = [row for row in rows if row["label"] in labels]
        if not rows:
            raise ValueError(f"`labels`: {folder} has no clip of {list(labels)}")
        self.names = [row["name"] for row in rows]
        self.labels = [labels.index(row["label"]) for row in rows]
        self.speakers = [row["speaker"] for row in rows]
        self.features = {}
        for modality in modalities:
            with safe_open(folder / f"{modality}.safetensors", "pt") as file:
                stored = set(file.keys())
                self.features[modality] = {name: file.get_tensor(name) for name in self.names if name in stored}
        self.extractor = None
        if (folder / "preprocessor_config.json").is_file():
            self.extractor = GraphFusionFeatureExtractor.from_pretrained(folder)
        bare = [name for name in self.names if not any(name in values for values in self.features.values())]
        if bare:
            raise ValueError(f"{folder}: {len(bare)} clips have none of {list(modalities)}, such as {bare[0]!r}")

    def __len__(self):
        return len(self.names)

    def length(self, row: int) -> int:
        """Steps of a clip's longest modality."""
        name = self.names[row]
        return max(len(values[name]) for values in self.features.values() if name in values)

    def __getitem__(self, index: int) -> dict:
        name = self.names[index]
        item = {modality: values[name] for modality, values in self.features.items() if name in values}
        return {**item, "labels": self.labels[index]}


def collate(items: list[dict], config: GraphFusionConfig) -> dict:
    """`input_features`, `attention_mask` and `labels` of a batch, padded on the right; absent modalities are all padding."""
    features, masks = pad_modalities(items, config)
    return {
        "input_features": features,
        "attention_mask": masks,
        "labels": torch.tensor([item["labels"] for item in items]),
    }


def learning_rate(step: int, steps: int, recipe: GraphFusionRecipe) -> float:
    """Linear from the least to the greatest over the warm-up, then a cosine down to the least."""
    low, high = recipe.min_learning_rate, recipe.learning_rate
    if step < recipe.warmup_steps:
        return low + (high - low) * step / recipe.warmup_steps
    passed = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, passed)))


def build_model(recipe: GraphFusionRecipe, items: FeatureItems, train: list[int]) -> GraphFusionForAudioClassification:
    names = dict(enumerate(recipe.labels))
    labels = [items.labels[row] for row in train]
    config = GraphFusionConfig(
        **recipe.model,
        id2label=names,
        label2id={name: index for index, name in names.items()},
        class_weights=class_weights(labels, len(names)).tolist() if recipe.class_weighting else None,
    )
    set_seed(recipe.seed)
    model = GraphFusionForAudioClassification(config)
    for modality in recipe.standardize:
        stored = items.features[modality]
        frames = torch.cat([stored[items.names[row]].double() for row in train if items.names[row] in stored])
        fold_statistics(model.projections[modality].linear, frames.mean(0), frames.std(0).clamp(min=1e-6))
        if modality in model.statistics:
            clips = [stored[items.names[row]].float()[None] for row in train if items.names[row] in stored]
            pooled = torch.cat([masked_statistics(clip, torch.ones(clip.shape[:2])) for clip in clips])
            model.statistics[modality].scaler.set_statistics(pooled.mean(0), pooled.std(0).clamp(min=1e-6))
    return model


@torch.no_grad()
def fold_statistics(linear: torch.nn.Linear, mean: torch.Tensor, std: torch.Tensor):
    """Makes `linear(x)` what it was for `(x - mean) / std`."""
    weight = linear.weight.double() / std
    linear.bias.sub_((weight @ mean).to(linear.bias.dtype))
    linear.weight.copy_(weight)


@torch.no_grad()
def predict(model, items: FeatureItems, rows: list[int], batch_size: int = 32) -> torch.Tensor:
    """Logits [N, C]."""
    model.eval()
    logits = []
    for start in range(0, len(rows), batch_size):
        batch = collate([items[row] for row in rows[start : start + batch_size]], model.config)
        batch = {key: _to(value, model.device) for key, value in batch.items()}
        logits.append(model(**batch).logits.float().cpu())
    return torch.cat(logits)


def _to(value, device):
    return {name: tensor.to(device) for name, tensor in value.items()} if isinstance(value, dict) else value.to(device)


def epoch_rows(recipe: GraphFusionRecipe, labels: list[int], epoch: int, generator: np.random.Generator) -> list[int]:
    """Positions among the training items, in the order of an epoch."""
    if recipe.sampling is None:
        return generator.permutation(len(labels)).tolist()
    weights = class_weights(labels, len(recipe.labels))
    weights = scheduled_weights(weights, epoch, recipe.epochs, recipe.sampling)[labels]
    return generator.choice(len(labels), len(labels), p=weights / weights.sum()).tolist()


def grouped_by_length(order: list[int], lengths: Sequence[int], batch_size: int, generator: np.random.Generator):
    """
    The order with clips of like lengths side by side: each 8 batches are sorted, and then all batches put in random order (a
    short one last).
    """
    part = 8 * batch_size
    parts = [sorted(order[i : i + part], key=lambda position: lengths[position]) for i in range(0, len(order), part)]
    batches = [rows[i : i + batch_size] for rows in parts for i in range(0, len(rows), batch_size)]
    full = len(order) // batch_size
    return [row for index in [*generator.permutation(full), *range(full, len(batches))] for row in batches[index]]


def train_step(model, optimizer, batch: dict, accelerator, recipe: GraphFusionRecipe, generator) -> float:
    """One step of the optimizer; returns the loss."""
    batch = {key: _to(value, accelerator.device) for key, value in batch.items()}
    for modality in recipe.seq_aug:
        if modality in batch["input_features"]:
            batch["input_features"][modality] = seq_aug(
                batch["input_features"][modality], generator, batch["attention_mask"][modality]
            )
    with accelerator.autocast():
        loss = model(**batch).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def train_model(model, items: FeatureItems, train: list[int], validation: list[int], recipe: GraphFusionRecipe):
    """
    Trains; with `recipe.keep_best` the weights of the epoch with the best macro-F1 on the validation rows are kept.

    Returns:
        `tuple`: the model, in evaluation mode, and a list of one dictionary an epoch (`loss`, `validation_macro_f1` where
        there are validation rows).
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=recipe.mixed_precision)
    if accelerator.num_processes > 1:
        raise ValueError("graph fusion trains in one process; give each process its own `--fold`")
    if recipe.patience is not None and not recipe.keep_best:
        raise ValueError("`patience` needs `keep_best`")
    if recipe.keep_best and not validation:
        raise ValueError("`keep_best` needs validation clips")
    unknown = sorted(set(recipe.seq_aug) - set(model.config.feature_sizes))
    if unknown:
        raise ValueError(f"`seq_aug` names {unknown}; vectors are {sorted(model.config.feature_sizes)}")
    generator = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, betas=tuple(recipe.betas), weight_decay=recipe.weight_decay
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    labels = [items.labels[row] for row in train]
    lengths = [items.length(row) for row in train]
    expected = [items.labels[row] for row in validation]
    steps, step, best, history = recipe.epochs * math.ceil(len(train) / recipe.batch_size), 0, (-1.0, 0, None), []
    for epoch in tqdm(range(recipe.epochs), desc="epochs", leave=False):
        model.train()
        order, losses = epoch_rows(recipe, labels, epoch, generator), []
        if recipe.group_by_length:
            order = grouped_by_length(order, lengths, recipe.batch_size, generator)
        for start in range(0, len(order), recipe.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, recipe)
            rows = [train[position] for position in order[start : start + recipe.batch_size]]
            batch = collate([items[row] for row in rows], model.config)
            losses.append(train_step(model, optimizer, batch, accelerator, recipe, generator))
            step += 1
        history.append({"epoch": epoch, "loss": float(np.mean(losses))})
        if not validation:
            continue
        score = macro_f1(predict(model, items, validation), expected)
        history[-1]["validation_macro_f1"] = score
        if recipe.keep_best and score > best[0]:
            best = (score, epoch, copy.deepcopy(model.state_dict()))
        if recipe.patience is not None and epoch - best[1] >= recipe.patience:
            break
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if recipe.keep_best:
        model.load_state_dict(best[2])
    return model.eval(), history


def run_fold(recipe: GraphFusionRecipe, items: FeatureItems, fold: int, folder: Path):
    """Trains and tests one fold, and writes its model and predictions."""
    train, validation, test = split_by_speaker(items.speakers, fold, recipe.speakers_per_fold)
    if recipe.train_on_validation:
        train, validation = sorted(train + validation), []
    model = build_model(recipe, items, train)
    model, history = train_model(model, items, train, validation, recipe)
    model.save_pretrained(folder / "model")
    if items.extractor is not None:
        items.extractor.save_pretrained(folder / "model")
    result = {
        "speakers": sorted({items.speakers[row] for row in test}),
        "names": [items.names[row] for row in test],
        "labels": [items.labels[row] for row in test],
        "logits": predict(model, items, test).tolist(),
        "history": history,
    }
    (folder / "predictions.json").write_text(json.dumps(result), encoding="utf-8")


def summarize_folds(output_dir: Path) -> dict:
    """Macro-F1 of all tested clips together, and the mean of the folds with its bootstrap interval."""
    folds = [json.loads(path.read_text("utf-8")) for path in sorted(output_dir.glob("fold-*/predictions.json"))]
    scores = [macro_f1(torch.tensor(fold["logits"]), fold["labels"]) for fold in folds]
    logits = torch.tensor([row for fold in folds for row in fold["logits"]])
    labels = [label for fold in folds for label in fold["labels"]]
    return {
        "macro_f1_all_clips": macro_f1(logits, labels),
        "num_clips": len(labels),
        "macro_f1_mean_of_folds": asdict(summarize(scores)),
        "macro_f1_by_fold": {" ".join(f["speakers"]): score for f, score in zip(folds, scores, strict=True)},
    }


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--features", required=True, type=Path)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--fold", type=int, nargs="*", default=None, help="folds to run; all by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    recipe = load_recipe(args.recipe, args.set)
    config = GraphFusionConfig(**recipe.model, num_labels=len(recipe.labels))
    items = FeatureItems(args.features, config.modalities, recipe.labels)
    folds = args.fold
    if folds is None:
        folds = range(math.ceil(len(set(items.speakers)) / recipe.speakers_per_fold))
    for fold in tqdm(folds, desc="folds"):
        folder = args.output_dir / f"fold-{fold:02d}"
        if not (folder / "predictions.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            run_fold(recipe, items, fold, folder)
    results = {"recipe": asdict(recipe), **summarize_folds(args.output_dir)}
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
