"""
Fine-tunes a speech encoder for emotion, with speakers left out.

    accelerate launch training/train_ser_backbone.py --recipe training/recipes/ser_backbone/wavlm-large.yaml \\
        --data-root data --output-dir runs/wavlm-large-ser --fold 0

The system is the baseline of the MSP-Podcast challenge, which arXiv 2601.17085 (of the same group) starts from: last hidden
state, attentive statistics pooling, dropout, Linear, layer norm, ReLU, dropout, Linear, weighted cross-entropy. That is token
fusion without quantisation, of one layer, so `OUTPUT/fold-00/model` is a `TokenFusionForAudioClassification` for
`pipeline("audio-classification")`, with the fine-tuned encoder in `OUTPUT/fold-00/model/encoder`.

The encoder is what `fit_kmeans.py` and `train_token_fusion.py` take as their encoder. It has heard the training and validation
speakers' labels: use it for the same `--fold` alone, or their scores leak.

`tuning` is `full`, `frozen_cnn` (all but the convolutions) or `lora`: low-rank updates of the feed-forward layers by `peft`,
merged into the weights before they are saved. (Not of the attention's projections: WavLM hands their weights to one fused
function, past any adapter, which would be trained and never used.) Encoders of the wav2vec 2.0 family, as WavLM and HuBERT.

A fold tests on one speaker (or `speakers_per_fold` of them), validates on the next and trains on all others; without `--fold`
every fold is run, and folds that are done are skipped. It is one process: folds are independent.
"""

import argparse
import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from recipe import DataSource, build_data_source
from tqdm.auto import tqdm
from train_token_fusion import (
    LabelledClips,
    balanced_weights,
    load_labelled,
    macro_f1,
    split_by_speaker,
    summarize_folds,
)
from transformers import AutoFeatureExtractor, AutoModel
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_affectcodec.modeling.configuration_token_fusion import TokenFusionConfig
from hf_affectcodec.modeling.feature_extraction_token_fusion import TokenFusionFeatureExtractor
from hf_affectcodec.modeling.modeling_token_fusion import TokenFusionForAudioClassification
from hf_affectcodec.modeling.waveform_token_fusion import TokenFusionWaveformEncoder
from hf_affectcodec.settings import build_dataclass, read_yaml


SAMPLING_RATE = 16_000  # Hz
TUNINGS = ("full", "frozen_cnn", "lora")
LORA_LAYERS = ["intermediate_dense", "output_dense"]


@dataclass
class BackboneRecipe:
    """
    One encoder and how it is tuned. The defaults are those of the MSP-Podcast challenge's baseline; the checkpoint with the
    best macro-F1 of the validation speakers is kept (theirs: the least loss). `max_seconds` cuts training clips. `model` may
    hold more keyword arguments of [`TokenFusionConfig`].
    """

    name: str
    encoder: str
    data: DataSource
    labels: list[str]
    revision: str = "main"
    tuning: str = "frozen_cnn"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    model: dict = field(default_factory=dict)
    class_weighting: bool = True
    max_seconds: float = 12.0
    speakers_per_fold: int = 1
    seed: int = 7
    epochs: int = 20
    batch_size: int = 8
    accumulation_steps: int = 4
    learning_rate: float = 1e-5
    head_learning_rate: float = 1e-5
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    activation_checkpointing: bool = False
    mixed_precision: str = "no"


def load_recipe(path: Path, data_root: str = "data", overrides: list[str] = ()) -> BackboneRecipe:
    """Reads a recipe as [`recipe.load_recipe`] does the codec's."""
    values = read_yaml(path, overrides)
    values["data"] = build_data_source(values["data"], data_root, f"{path}: data")
    recipe = build_dataclass(BackboneRecipe, values, str(path))
    if recipe.tuning not in TUNINGS:
        raise ValueError(f"`tuning` must be one of {TUNINGS}, got {recipe.tuning!r}")
    return recipe


class BackboneClassifier(torch.nn.Module):
    """An encoder and the classifier of its last hidden state, trained together."""

    def __init__(self, encoder: torch.nn.Module, classifier: TokenFusionForAudioClassification):
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, inputs: dict, lengths: torch.Tensor, labels: torch.Tensor):
        """`inputs` of the encoder, `lengths` `[B]` in samples and `labels` `[B]` -> [`TokenFusionOutput`]."""
        hidden = self.encoder(**inputs).last_hidden_state
        frames = self.encoder._get_feat_extract_output_lengths(lengths).clamp(min=1, max=hidden.shape[1])
        mask = torch.arange(hidden.shape[1], device=hidden.device) < frames[:, None]
        return self.classifier(input_features=hidden[:, :, None], attention_mask=mask, labels=labels)


def build_model(recipe: BackboneRecipe, labels: list[int]) -> tuple[BackboneClassifier, AutoFeatureExtractor]:
    """
    Args:
        recipe ([`BackboneRecipe`]): Which encoder, and what of it is trained.
        labels (`list[int]`): Of the training clips.

    Raises:
        ImportError: `tuning` is `lora` and `peft` is missing.
    """
    set_seed(recipe.seed)
    encoder = AutoModel.from_pretrained(recipe.encoder, revision=recipe.revision, dtype=torch.float32)
    extractor = AutoFeatureExtractor.from_pretrained(recipe.encoder, revision=recipe.revision)
    if extractor.sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`encoder` must hear {SAMPLING_RATE} Hz, {recipe.encoder!r} hears {extractor.sampling_rate}")
    names = dict(enumerate(recipe.labels))
    config = TokenFusionConfig(
        **{
            "num_streams": 1,
            "hidden_size": encoder.config.hidden_size,
            "quantized": False,
            "layer_fusion": "mean",
            "tokenizer_model": "./encoder",
            "tokenizer_layers": [encoder.config.num_hidden_layers],
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "class_weights": balanced_weights(labels, len(names)) if recipe.class_weighting else None,
            **recipe.model,
        }
    )
    classifier = TokenFusionForAudioClassification(config)
    if recipe.activation_checkpointing:
        encoder.activation_checkpointing_enable()
    if recipe.tuning == "frozen_cnn":
        encoder.feature_extractor.requires_grad_(False)
    elif recipe.tuning == "lora":
        encoder = _with_lora(encoder, recipe)
    return BackboneClassifier(encoder, classifier), extractor


def _with_lora(encoder, recipe: BackboneRecipe):
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise ImportError("LoRA needs `peft`: pip install 'hf-affectcodec[train]'") from error
    lora = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=LORA_LAYERS,
    )
    return LoraModel(encoder, lora, "default")


class TrainingClips(torch.utils.data.Dataset):
    """Clips of the rows of a part, cut to `max_seconds`."""

    def __init__(self, clips: LabelledClips, rows: list[int], max_seconds: float):
        self.clips, self.rows = clips, rows
        self.longest = round(max_seconds * SAMPLING_RATE)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        row = self.rows[index]
        waveform = self.clips.clips.waveforms[row][: self.longest]
        return waveform.astype(np.float32) / 32768, self.clips.labels[row]


def collate(items: list[tuple[np.ndarray, int]], extractor) -> dict:
    """Arguments of [`BackboneClassifier`]."""
    waveforms = [waveform for waveform, _ in items]
    inputs = extractor(waveforms, sampling_rate=SAMPLING_RATE, padding=True, return_tensors="pt")
    return {
        "inputs": dict(inputs),
        "lengths": torch.tensor([len(waveform) for waveform in waveforms]),
        "labels": torch.tensor([label for _, label in items]),
    }


@torch.no_grad()
def predict(model: BackboneClassifier, extractor, clips: LabelledClips, rows: list[int]) -> torch.Tensor:
    """Logits [N, C] of whole clips, one by one and unpadded, as the saved classifier hears them."""
    model.eval()
    logits = []
    for row in rows:
        waveform = torch.from_numpy(clips.clips.waveforms[row]).float() / 32768
        streams = hear(model.encoder, extractor, model.classifier.config, waveform)[None]
        logits.append(model.classifier(input_features=streams.to(model.classifier.device)).logits[0].float().cpu())
    return torch.stack(logits)


def hear(encoder, extractor, config: TokenFusionConfig, waveform: torch.Tensor) -> torch.Tensor:
    """Hidden states `[F, 1, C]` of a waveform `[T]`, as [`TokenFusionWaveformEncoder`] makes them, which freezes its encoder."""
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    streams = TokenFusionWaveformEncoder(encoder, extractor, config)(waveform)
    for parameter, requires_grad in zip(encoder.parameters(), trained, strict=True):
        parameter.requires_grad_(requires_grad)
    return streams


def parameter_groups(model: BackboneClassifier, recipe: BackboneRecipe) -> list[dict]:
    """What is trained: the encoder's parameters and the head's, each at their rate."""
    return [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": rate}
        for part, rate in ((model.encoder, recipe.learning_rate), (model.classifier, recipe.head_learning_rate))
    ]


def train_model(
    model, extractor, clips: LabelledClips, train: list[int], validation: list[int], recipe: BackboneRecipe
):
    """
    AdamW at constant rates; the weights of the epoch with the best macro-F1 on the validation rows are kept.

    Returns:
        `tuple`: the model, in evaluation mode, and a list of one dictionary an epoch (`loss`, `validation_macro_f1`).
    """
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.accumulation_steps,
    )
    if accelerator.num_processes > 1:
        raise ValueError("the backbone trains in one process; give each process its own `--fold`")
    set_seed(recipe.seed)
    part = TrainingClips(clips, train, recipe.max_seconds)
    lengths = [min(len(clips.clips.waveforms[row]), part.longest) for row in train]
    generator = torch.Generator().manual_seed(recipe.seed)
    loader = torch.utils.data.DataLoader(
        part,
        recipe.batch_size,
        sampler=LengthGroupedSampler(recipe.batch_size, lengths=lengths, generator=generator),
        collate_fn=lambda items: collate(items, extractor),
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), weight_decay=recipe.weight_decay)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    best, history = (-1.0, None), []
    expected = [clips.labels[row] for row in validation]
    for epoch in tqdm(range(recipe.epochs), desc="epochs", leave=False):
        model.train()
        losses = []
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
        plain = accelerator.unwrap_model(model)
        score = macro_f1(predict(plain, extractor, clips, validation), expected)
        history.append({"epoch": epoch, "loss": float(np.mean(losses)), "validation_macro_f1": score})
        if score > best[0]:
            trained = {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
            state = {name: value for name, value in plain.state_dict().items() if name in trained}
            best = (score, copy.deepcopy(state))
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.load_state_dict(best[1], strict=False)
    return model.eval(), history


def save_model(model: BackboneClassifier, extractor, folder: Path, tuning: str):
    """The classifier for `pipeline("audio-classification")`, with its encoder (LoRA merged) in `folder/encoder`."""
    if tuning == "lora":
        model.encoder = model.encoder.merge_and_unload()
    model.encoder.save_pretrained(folder / "encoder")
    extractor.save_pretrained(folder / "encoder")
    model.classifier.save_pretrained(folder)
    TokenFusionFeatureExtractor(sampling_rate=SAMPLING_RATE).save_pretrained(folder)


def run_fold(recipe: BackboneRecipe, clips: LabelledClips, fold: int, folder: Path):
    """Trains and tests one fold, and writes its model and predictions."""
    train, validation, test = split_by_speaker(clips.speakers, fold, recipe.speakers_per_fold)
    model, extractor = build_model(recipe, [clips.labels[row] for row in train])
    model, history = train_model(model, extractor, clips, train, validation, recipe)
    save_model(model, extractor, folder / "model", recipe.tuning)
    result = {
        "speakers": sorted({clips.speakers[row] for row in test}),
        "names": [clips.names[row] for row in test],
        "labels": [clips.labels[row] for row in test],
        "logits": predict(model, extractor, clips, test).tolist(),
        "history": history,
    }
    (folder / "predictions.json").write_text(json.dumps(result), encoding="utf-8")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--data-root", default="data", help="replaces {data_root} in the recipe's data paths")
    parser.add_argument("--fold", type=int, nargs="+", default=None, help="folds to run; all by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    recipe = load_recipe(args.recipe, args.data_root, args.set)
    clips = load_labelled(recipe.data, recipe.labels)
    count = -(-len(set(clips.speakers)) // recipe.speakers_per_fold)
    for fold in tqdm(range(count) if args.fold is None else args.fold, desc="folds", unit="fold"):
        folder = args.output_dir / f"fold-{fold:02d}"
        if not (folder / "predictions.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            run_fold(recipe, clips, fold, folder)
    results = {"recipe": asdict(recipe), **summarize_folds(recipe, args.output_dir)}
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
