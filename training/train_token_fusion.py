"""
Trains token fusion with speakers left out.

    accelerate launch training/train_token_fusion.py --recipe training/recipes/token_fusion/whisper-base.yaml \\
        --data-root data --output-dir runs/token-fusion --fold 0 1 2

A fold tests on one speaker (or `speakers_per_fold` of them), validates on the next and trains on all others; with
`validate: false` it trains on the next too, and keeps the last epoch's weights. Without `--fold` every fold is run. Each leaves
`OUTPUT/fold-00/model`, for `pipeline("audio-classification")`, and `fold-00/predictions.json`; folds that are done are skipped.
`OUTPUT/results.json` holds macro-F1 over the folds that are done. `--all-speakers` trains the model to give away, on
everyone, into `OUTPUT/all/model`: the folds say what it is worth.

What the encoder or codec makes of the clips is kept in `OUTPUT/streams` (or the recipe's `cache`, which several runs may
share), with the k-means of each fold's training speakers. Centroids may instead come from a folder of `fit_kmeans.py` (the
recipe's `centroids`), fitted on other speech. All other statistics are of the training speakers.

It is one process: folds are independent, so several machines or accelerators take a `--fold` each.
"""

import argparse
import copy
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from fit_kmeans import StreamCache, encoder_settings, load_encoder
from recipe import DataSource, build_data_source
from tqdm.auto import tqdm
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_affectcodec.data.clips import Clips, load_clips
from hf_affectcodec.data.kmeans_tokens import (
    LayerCentroids,
    assign_tokens,
    centroids_path,
    channel_statistics,
    fit_layer,
    load_centroids,
    save_centroids,
    stack_layers,
)
from hf_affectcodec.metrics.classification import classification_scores
from hf_affectcodec.metrics.speaker_split import assert_speaker_disjoint
from hf_affectcodec.metrics.statistics import summarize
from hf_affectcodec.modeling.configuration_token_fusion import TokenFusionConfig
from hf_affectcodec.modeling.feature_extraction_token_fusion import TokenFusionFeatureExtractor
from hf_affectcodec.modeling.modeling_token_fusion import TokenFusionForAudioClassification
from hf_affectcodec.settings import build_dataclass, read_yaml


@dataclass
class TokenFusionRecipe:
    """
    One study of one system. `model` holds the keyword arguments of its configuration class; `labels` the classes, in order,
    of the column that `data.column_map` calls `label`; clips of any other label are left out. `validate`: whether the epoch is
    chosen on speakers of its own; on few speakers one of them is a poor judge and a loss to training. `max_cut_frames`: each
    time a clip is trained on, up to so many frames of it, at most a third, are cut out at a random place.
    """

    name: str
    model: dict
    data: DataSource
    labels: list[str]
    opensmile_feature_set: str | None = None
    centroids: str | None = None
    cache: str | None = None
    kmeans_passes: int = 10
    class_weighting: bool = True
    validate: bool = True
    speakers_per_fold: int = 1
    seed: int = 0
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_cut_frames: int = 0
    mixed_precision: str = "no"

    def to_dict(self) -> dict:
        return asdict(self)


def load_recipe(path: Path, data_root: str = "data", overrides: list[str] = ()) -> TokenFusionRecipe:
    """Reads a recipe as [`recipe.load_recipe`] does the codec's."""
    values = read_yaml(path, overrides)
    values["data"] = build_data_source(values["data"], data_root, f"{path}: data")
    return build_dataclass(TokenFusionRecipe, values, str(path))


@dataclass
class LabelledClips:
    """
    Clips of a known label, readable as [`fit_kmeans.StreamCache`] wants them.

    `streams` and `opensmile` are filled clip by clip: `[F, L]` or `[F, L, C]`, and `[S]` or `[T', S]`.
    """

    clips: Clips
    labels: list[int]
    speakers: list[str]
    streams: list[torch.Tensor] = field(default_factory=list)
    opensmile: list[np.ndarray] | None = None

    @property
    def names(self) -> list[str]:
        return self.clips.names

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, first: int, last: int, sampling_rate: int):
        """(name, waveform [T], {}) of clips `first` to `last`, decoded at `sampling_rate` already."""
        for name, waveform in zip(self.clips.names[first:last], self.clips.waveforms[first:last], strict=True):
            yield name, torch.from_numpy(waveform).float() / 32768, {}


def load_labelled(source: DataSource, labels: list[str]) -> LabelledClips:
    """
    Raises:
        ValueError: The source's `column_map` names no `label` or `speaker`, or no clip has one of the labels.
    """
    if not source.column_map or not {"audio", "label", "speaker"} <= source.column_map.keys():
        raise ValueError(f"`data.column_map` must name `audio`, `label` and `speaker`, got {source.column_map}")
    clips = load_clips(source.source, source.split, source.column_map, config_name=source.config_name)
    kept = [i for i, label in enumerate(clips.columns["label"]) if label in labels]
    if not kept:
        raise ValueError(f"`labels`: no clip has one of {labels}")
    found = [labels.index(clips.columns["label"][i]) for i in kept]
    speakers = [clips.columns["speaker"][i] for i in kept]
    clips = Clips([clips.waveforms[i] for i in kept], clips.sampling_rate, [clips.names[i] for i in kept])
    return LabelledClips(clips, found, speakers)


def load_streams(recipe: TokenFusionRecipe, config: TokenFusionConfig, clips: LabelledClips, folder: Path):
    """Fills in what goes into the model: streams, from the cache or made now, and openSMILE features."""
    encoder = load_encoder(config)
    cache = StreamCache(folder, len(clips), encoder_settings(encoder, clips))
    cache.fill(clips, encoder)
    clips.streams = [cache.read(index) for index in range(len(clips))]
    if recipe.opensmile_feature_set is not None:
        extractor = build_extractor(recipe, config)
        waveforms = tqdm(clips.clips.waveforms, desc="openSMILE", unit="clip")
        clips.opensmile = [extractor.opensmile_features(waveform / np.float32(32768)) for waveform in waveforms]


def build_config(recipe: TokenFusionRecipe, class_weights=None) -> TokenFusionConfig:
    names = dict(enumerate(recipe.labels))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    return TokenFusionConfig(**recipe.model, **labels, class_weights=class_weights)


def build_extractor(recipe: TokenFusionRecipe, config: TokenFusionConfig) -> TokenFusionFeatureExtractor:
    return TokenFusionFeatureExtractor(
        sampling_rate=config.sampling_rate,
        opensmile_feature_set=recipe.opensmile_feature_set,
        opensmile_level=config.opensmile_level,
    )


def balanced_weights(labels: list[int], num_labels: int) -> list[float]:
    """`N / (C n_c)` for each class c, of n_c of the N items; a class without items gets 0."""
    counts = np.bincount(labels, minlength=num_labels)
    return [len(labels) / (num_labels * int(count)) if count else 0.0 for count in counts]


def split_by_speaker(speakers: list[str], fold: int, per_fold: int = 1) -> tuple[list[int], list[int], list[int]]:
    """Rows to train on, validate on and test on: the fold's speakers are tested, the next fold's validate."""
    names = sorted(set(speakers))
    groups = [names[i : i + per_fold] for i in range(0, len(names), per_fold)]
    if not 0 <= fold < len(groups) or len(groups) < 3:
        raise ValueError(f"`fold` must lie in 0..{len(groups) - 1} (of at least 3 folds), got {fold}")
    test, validation = groups[fold], groups[(fold + 1) % len(groups)]
    parts = ([], [], [])
    for row, speaker in enumerate(speakers):
        parts[2 if speaker in test else 1 if speaker in validation else 0].append(row)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert_speaker_disjoint([speakers[i] for i in parts[first]], [speakers[i] for i in parts[second]])
    return parts


def _mean_and_std(arrays) -> tuple[torch.Tensor, torch.Tensor]:
    _, mean, std = channel_statistics(arrays)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.where(std > 1e-6 * np.abs(mean), std, 1.0)).float()


def build_model(recipe: TokenFusionRecipe, clips: LabelledClips, train: list[int], cache: Path):
    """A new model with the statistics and centroids of the training rows, and the model's input for every clip."""
    labels = [clips.labels[i] for i in train]
    weights = balanced_weights(labels, len(recipe.labels)) if recipe.class_weighting else None
    config = build_config(recipe, weights)
    set_seed(recipe.seed)
    model = TokenFusionForAudioClassification(config)
    streams = clips.streams
    if model.centroids is not None:
        layers = [_centroids(recipe, config, clips, train, position, cache) for position in range(config.num_streams)]
        model.set_centroids(*stack_layers(layers))
        streams = [
            torch.stack([assign_tokens(item[:, j], layer) for j, layer in enumerate(layers)], dim=1)
            for item in streams
        ]
    elif not config.quantized:
        mean, std = _mean_and_std(clips.streams[i].float().numpy() for i in train)
        model.set_statistics(mean, std)
    if clips.opensmile is not None:
        model.set_opensmile_statistics(*_mean_and_std(np.atleast_2d(clips.opensmile[i]) for i in train))
    return model, streams


def _centroids(recipe, config, clips, train, position, cache) -> LayerCentroids:
    layer, clusters = config.tokenizer_layers[position], config.vocab_size
    if recipe.centroids is not None:
        return load_centroids(centroids_path(recipe.centroids, layer, clusters))
    what = json.dumps([recipe.seed, recipe.kmeans_passes, [clips.names[row] for row in train]])
    path = centroids_path(cache / f"kmeans-{hashlib.sha256(what.encode()).hexdigest()[:12]}", layer, clusters)
    if not path.exists():

        def frames(number):
            for row in np.random.default_rng([recipe.seed, number]).permutation(train):
                yield clips.streams[row][:, position].float().numpy()

        path.parent.mkdir(exist_ok=True)
        fitted = fit_layer(frames, clusters, recipe.seed, recipe.kmeans_passes, max(10_000, clusters))
        save_centroids(fitted, path)
    return load_centroids(path)


class ClipItems(torch.utils.data.Dataset):
    """
    The rows of a part, as [`TokenFusionFeatureExtractor.pad_tokens`] takes them. With a `generator`, up to `max_cut_frames`
    frames, at most a third of the clip, are cut out at a place of its choice.
    """

    def __init__(
        self,
        clips: LabelledClips,
        streams: list[torch.Tensor],
        rows: list[int],
        max_cut_frames: int = 0,
        generator: np.random.Generator | None = None,
    ):
        self.clips, self.streams, self.rows = clips, streams, rows
        self.max_cut_frames, self.generator = max_cut_frames, generator

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        streams = self.streams[row]
        if self.generator is not None:
            cut = int(self.generator.integers(min(self.max_cut_frames, len(streams) // 3) + 1))
            first = int(self.generator.integers(len(streams) - cut + 1))
            streams = torch.cat([streams[:first], streams[first + cut :]])
        item = {"input_features" if streams.is_floating_point() else "input_ids": streams}
        item["labels"] = np.int64(self.clips.labels[row])
        if self.clips.opensmile is not None:
            item["opensmile_features"] = self.clips.opensmile[row]
        return item


@torch.no_grad()
def predict(model, items: ClipItems, extractor, device, batch_size: int = 32) -> torch.Tensor:
    """Logits [N, C]."""
    model.eval()
    loader = torch.utils.data.DataLoader(items, batch_size, collate_fn=extractor.pad_tokens)
    return torch.cat([model(**batch.to(device)).logits.float().cpu() for batch in loader])


def macro_f1(logits: torch.Tensor, labels: list[int]) -> float:
    return classification_scores(labels, logits.argmax(-1).tolist(), range(logits.shape[1])).macro_f1


def train_model(model, train: ClipItems, validation: ClipItems | None, extractor, recipe: TokenFusionRecipe):
    """
    AdamW with a linear decay to 0. The weights of the epoch with the best macro-F1 on the validation items are kept, or,
    where `validation` is `None`, those of the last.

    Returns:
        `tuple`: the model, in evaluation mode, and a list of one dictionary an epoch (`epoch`, `loss`, and
        `validation_macro_f1` where there are validation items).
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=recipe.mixed_precision)
    if accelerator.num_processes > 1:
        raise ValueError("token fusion trains in one process; give each process its own `--fold`")
    set_seed(recipe.seed)
    lengths = [len(train.streams[row]) for row in train.rows]
    sampler = LengthGroupedSampler(
        recipe.batch_size, lengths=lengths, generator=torch.Generator().manual_seed(recipe.seed)
    )
    loader = torch.utils.data.DataLoader(
        train,
        recipe.batch_size,
        sampler=sampler,
        collate_fn=extractor.pad_tokens,
        drop_last=len(train) % recipe.batch_size == 1,  # batch norm has no statistics of one item
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps, step, best, history = recipe.epochs * len(loader), 0, (-1.0, None), []
    for epoch in range(recipe.epochs):
        model.train()
        losses = []
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 - step / steps)
            loss = model(**batch).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            step += 1
        history.append({"epoch": epoch, "loss": float(np.mean(losses))})
        if validation is None:
            continue
        plain = accelerator.unwrap_model(model)
        labels = [validation.clips.labels[row] for row in validation.rows]
        score = macro_f1(predict(plain, validation, extractor, accelerator.device), labels)
        history[-1]["validation_macro_f1"] = score
        if score > best[0]:
            best = (score, copy.deepcopy(plain.state_dict()))
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if validation is not None:
        model.load_state_dict(best[1])
    return model.eval(), history


def fit(recipe, clips: LabelledClips, train: list[int], validation: list[int] | None, folder: Path, cache: Path):
    """
    Trains on some rows and writes `folder/model`.

    Returns:
        `tuple`: the model, every clip's input of it, its feature extractor, and the history of [`train_model`].
    """
    model, streams = build_model(recipe, clips, train, cache)
    extractor = build_extractor(recipe, model.config)
    held_back = None if validation is None else ClipItems(clips, streams, validation)
    items = ClipItems(clips, streams, train, recipe.max_cut_frames, np.random.default_rng(recipe.seed))
    model, history = train_model(model, items, held_back, extractor, recipe)
    model.save_pretrained(folder / "model")
    extractor.save_pretrained(folder / "model")
    return model, streams, extractor, history


def run_fold(recipe: TokenFusionRecipe, clips: LabelledClips, fold: int, folder: Path, cache: Path):
    """Trains and tests one fold, and writes its model and predictions."""
    train, validation, test = split_by_speaker(clips.speakers, fold, recipe.speakers_per_fold)
    if not recipe.validate:
        train, validation = sorted(train + validation), None
    model, streams, extractor, history = fit(recipe, clips, train, validation, folder, cache)
    logits = predict(model, ClipItems(clips, streams, test), extractor, model.device)
    result = {
        "speakers": sorted({clips.speakers[i] for i in test}),
        "names": [clips.names[i] for i in test],
        "labels": [clips.labels[i] for i in test],
        "logits": logits.tolist(),
        "history": history,
    }
    (folder / "predictions.json").write_text(json.dumps(result), encoding="utf-8")


def summarize_folds(recipe: TokenFusionRecipe, output_dir: Path) -> dict:
    """Macro-F1 of each fold that is done, their mean with its bootstrap interval over folds, and that of all clips."""
    folds = [json.loads(path.read_text("utf-8")) for path in sorted(output_dir.glob("fold-*/predictions.json"))]
    scores = [macro_f1(torch.tensor(fold["logits"]), fold["labels"]) for fold in folds]
    summary = summarize(scores)
    labels = [label for fold in folds for label in fold["labels"]]
    logits = torch.tensor([row for fold in folds for row in fold["logits"]])
    everything = classification_scores(labels, logits.argmax(-1).tolist(), range(len(recipe.labels)))
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "folds": len(folds),
        "clips": len(labels),
        "macro_f1_by_fold": {fold["speakers"][0]: score for fold, score in zip(folds, scores, strict=True)},
        "macro_f1_mean": summary.mean,
        "macro_f1_interval": [summary.low, summary.high],
        "macro_f1_all_clips": everything.macro_f1,
        "unweighted_accuracy_all_clips": everything.unweighted_accuracy,
    }


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--data-root", default="data", help="replaces {data_root} in the recipe's data paths")
    parser.add_argument("--fold", type=int, nargs="+", default=None, help="folds to run; all by default")
    parser.add_argument(
        "--all-speakers", action="store_true", help="instead of folds, train on everyone (needs `validate: false`)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    recipe = load_recipe(args.recipe, args.data_root, args.set)
    clips = load_labelled(recipe.data, recipe.labels)
    cache = (
        args.output_dir / "streams" if recipe.cache is None else Path(recipe.cache.format(data_root=args.data_root))
    )
    if args.all_speakers and recipe.validate:
        raise ValueError("`--all-speakers` needs `validate: false`: nobody is left to choose the epoch on")
    load_streams(recipe, build_config(recipe), clips, cache)
    if args.all_speakers:
        fit(recipe, clips, list(range(len(clips))), None, args.output_dir / "all", cache)
        return
    count = -(-len(set(clips.speakers)) // recipe.speakers_per_fold)
    for fold in tqdm(range(count) if args.fold is None else args.fold, desc="folds", unit="fold"):
        folder = args.output_dir / f"fold-{fold:02d}"
        if not (folder / "predictions.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            run_fold(recipe, clips, fold, folder, cache)
    results = summarize_folds(recipe, args.output_dir)
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
