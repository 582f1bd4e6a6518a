"""
Trains EmoDistill with speakers left out: first the two teachers, then the student that hears what they read.

    accelerate launch training/train_emodistill.py --stage teachers --recipe training/recipes/emodistill/whisper-base.yaml \\
        --data-root data --output-dir runs/emodistill
    accelerate launch training/train_emodistill.py --stage student --recipe training/recipes/emodistill/whisper-base.yaml \\
        --data-root data --output-dir runs/emodistill

A fold trains teachers and student on the same speakers. `--stage teachers` leaves `OUTPUT/fold-00/linguistic_teacher` and
`prosodic_teacher`, for `pipeline("text-classification")` and `pipeline("audio-classification")`, beside each what it says of
every clip (`.safetensors`), and their accuracy in `OUTPUT/teachers.json`. `--stage student` leaves `OUTPUT/fold-00/model`,
`predictions.json` and `OUTPUT/results.json`: weighted and unweighted accuracy and macro-F1 with intervals over folds. Ablations
are recipes of the second stage, and take their teachers from the folder of the first: `--teachers-dir runs/emodistill`.

What does not depend on the fold (transcripts, descriptors, frames of an encoder that is not trained) is kept in
`OUTPUT/cache`, or the recipe's `cache`, which several runs may share. Folds that are done are skipped. It is one process:
folds are independent.
"""

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from emodistill_data import (
    EmoDistillRecipe,
    EmotionClips,
    Training,
    load_descriptors,
    load_emotion_clips,
    load_frames,
    load_recipe,
    load_transcripts,
    num_folds,
    split_rows,
)
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm
from train_token_fusion import balanced_weights, macro_f1
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoTokenizer,
    Wav2Vec2FeatureExtractor,
    get_linear_schedule_with_warmup,
)

from hf_affectcodec.metrics.classification import classification_scores
from hf_affectcodec.metrics.statistics import summarize
from hf_affectcodec.modeling.attention_graph_fusion import masked_statistics
from hf_affectcodec.modeling.configuration_emodistill import (
    EmoDistillConfig,
    EmoDistillLinguisticTeacherConfig,
    EmoDistillProsodicTeacherConfig,
)
from hf_affectcodec.modeling.feature_extraction_emodistill import (
    EmoDistillFeatureExtractor,
    EmoDistillProsodicTeacherFeatureExtractor,
)
from hf_affectcodec.modeling.modeling_emodistill import EmoDistillForAudioClassification
from hf_affectcodec.modeling.modeling_emodistill_linguistic_teacher import EmoDistillLinguisticTeacher
from hf_affectcodec.modeling.modeling_emodistill_prosodic_teacher import EmoDistillProsodicTeacher
from hf_affectcodec.objectives.emodistill import TeacherOutputs, emodistill_loss
from hf_affectcodec.teachers.frozen import load_frozen, weights_sha256


SAMPLING_RATE = 16_000  # Hz
TEACHERS = ("linguistic", "prosodic")


# ----- one loop for teachers and student


def parameter_groups(model, training: Training) -> list[dict]:
    """What was trained before, under `encoder.`, and the rest, each with its learning rate."""
    rates = {True: training.encoder_learning_rate, False: training.learning_rate}
    trained = [(name.startswith("encoder."), p) for name, p in model.named_parameters() if p.requires_grad]
    groups = {old: [p for is_old, p in trained if is_old == old] for old in (True, False)}
    return [{"params": groups[old], "lr": rates[old]} for old in (True, False) if groups[old]]


@torch.no_grad()
def predict(model, make_batch: Callable, rows: Sequence[int], batch_size: int = 32) -> dict[str, torch.Tensor]:
    """All outputs of the model on these rows, `[N, ...]`, float32."""
    model.eval()
    outputs = []
    for start in range(0, len(rows), batch_size):
        batch = {key: value.to(model.device) for key, value in make_batch(rows[start : start + batch_size]).items()}
        outputs.append({key: value.float().cpu() for key, value in model(**batch).items()})
    return {key: torch.cat([output[key] for output in outputs]) for key in outputs[0]}


def fit(
    model,
    make_batch: Callable,
    loss_of: Callable,
    labels: Sequence[int],
    train: Sequence[int],
    validation: Sequence[int],
    training: Training,
    seed: int,
):
    """
    Args:
        model: In place, on the accelerator where there is one.
        make_batch: Rows to the model's arguments.
        loss_of: (the model's outputs, rows) to a dictionary of scalars with `loss`.
        labels: Of all rows.
        train, validation: Rows.
        training: Its settings.
        seed: Of the order of the rows and of dropout.

    Returns:
        `tuple`: the model, in evaluation mode, and a list of one dictionary an epoch (the mean of each of `loss_of`'s
        terms, `validation_macro_f1`).
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=training.mixed_precision)
    if accelerator.num_processes > 1:
        raise ValueError("EmoDistill trains in one process; give each process its own `--fold`")
    set_seed(seed)
    order = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, training), weight_decay=training.weight_decay)
    model, optimizer = accelerator.prepare(model, optimizer)
    steps = training.epochs * -(-len(train) // training.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(training.warmup_share * steps), steps)
    best, history = (-1.0, None), []
    for epoch in range(training.epochs):
        model.train()
        rows, terms = [train[i] for i in order.permutation(len(train))], []
        for start in range(0, len(rows), training.batch_size):
            part = rows[start : start + training.batch_size]
            batch = {key: value.to(accelerator.device) for key, value in make_batch(part).items()}
            losses = loss_of(model(**batch), part)
            accelerator.backward(losses["loss"])
            accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            terms.append({name: float(value.detach()) for name, value in losses.items()})
        means = {name: float(np.mean([step[name] for step in terms])) for name in terms[0]}
        plain = accelerator.unwrap_model(model)
        score = macro_f1(predict(plain, make_batch, validation)["logits"], [labels[row] for row in validation])
        history.append({"epoch": epoch, **means, "validation_macro_f1": score})
        if training.keep_best and score > best[0]:
            best = (score, copy.deepcopy(plain.state_dict()))
    model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if training.keep_best:
        model.load_state_dict(best[1])
    return model.eval(), history


def _label_arguments(recipe: EmoDistillRecipe, labels: Sequence[int]) -> dict:
    names = dict(enumerate(recipe.labels))
    weights = balanced_weights(labels, len(names)) if recipe.class_weighting else None
    return {
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
        "class_weights": weights,
    }


def _mean_and_std(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the rows [N, C]; a channel that never varies gets 1."""
    std = rows.double().std(0, correction=0)
    return rows.double().mean(0).float(), torch.where(std > 0, std, 1.0).float()


# ----- teachers


def text_batches(clips: EmotionClips, tokenizer) -> Callable:
    def make_batch(rows):
        return tokenizer([clips.transcripts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")

    return make_batch


def embedding_batches(clips: EmotionClips, tokenizer, teacher: EmoDistillLinguisticTeacher) -> Callable:
    """For a text encoder that is not trained: it runs once, and `clips` keep what it says."""
    if clips.text_embeddings is None:
        read, starts = text_batches(clips, tokenizer), range(0, len(clips), 32)
        with torch.no_grad():
            parts = [teacher.eval().embed(**read(range(i, min(i + 32, len(clips))))) for i in starts]
        clips.text_embeddings = torch.cat(parts)
    return lambda rows: {"embeddings": clips.text_embeddings[rows]}


def descriptor_batches(clips: EmotionClips) -> Callable:
    def make_batch(rows):
        items = [torch.from_numpy(clips.opensmile[row]) for row in rows]
        lengths = torch.tensor([len(item) for item in items])
        return {
            "input_features": torch.nn.utils.rnn.pad_sequence(items, batch_first=True),
            "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
        }

    return make_batch


def build_linguistic_teacher(recipe: EmoDistillRecipe, labels: Sequence[int]) -> EmoDistillLinguisticTeacher:
    encoder = load_frozen(AutoModel, recipe.text_encoder, "main")
    config = EmoDistillLinguisticTeacherConfig(
        text_config=encoder.config, **recipe.linguistic_teacher, **_label_arguments(recipe, labels)
    )
    set_seed(recipe.seed)
    teacher = EmoDistillLinguisticTeacher(config)
    teacher.encoder = encoder.requires_grad_(recipe.train_text_encoder)
    return teacher


def build_prosodic_teacher(recipe: EmoDistillRecipe, clips: EmotionClips, train: list[int]):
    config = EmoDistillProsodicTeacherConfig(
        **recipe.prosodic_teacher, **_label_arguments(recipe, [clips.labels[row] for row in train])
    )
    set_seed(recipe.seed)
    teacher = EmoDistillProsodicTeacher(config)
    teacher.set_statistics(*_mean_and_std(torch.cat([torch.from_numpy(clips.opensmile[row]) for row in train])))
    return teacher


def train_teacher(teacher, make_batch, clips: EmotionClips, train, validation, training: Training, seed: int):
    """A teacher, fitted, with its outputs on all clips, and its history."""

    def loss_of(outputs, rows):
        labels = torch.tensor([clips.labels[row] for row in rows], device=outputs.logits.device)
        weights = teacher.config.class_weights
        weight = None if weights is None else outputs.logits.new_tensor(weights)
        return {"loss": torch.nn.functional.cross_entropy(outputs.logits, labels, weight)}

    teacher, history = fit(teacher, make_batch, loss_of, clips.labels, train, validation, training, seed)
    outputs = predict(teacher, make_batch, range(len(clips)))
    return teacher, TeacherOutputs(outputs["logits"], outputs["embeddings"]), history


def prepare_linguistic(recipe: EmoDistillRecipe, clips: EmotionClips, train: list[int]):
    tokenizer = AutoTokenizer.from_pretrained(recipe.text_encoder)
    teacher = build_linguistic_teacher(recipe, [clips.labels[row] for row in train])
    if recipe.train_text_encoder:
        make_batch = text_batches(clips, tokenizer)
    else:
        make_batch = embedding_batches(clips, tokenizer, teacher)
    return teacher, tokenizer, make_batch, recipe.linguistic_training


def prepare_prosodic(recipe: EmoDistillRecipe, clips: EmotionClips, train: list[int]):
    teacher = build_prosodic_teacher(recipe, clips, train)
    extractor = EmoDistillProsodicTeacherFeatureExtractor()
    return teacher, extractor, descriptor_batches(clips), recipe.prosodic_training


PREPARE_TEACHER = {"linguistic": prepare_linguistic, "prosodic": prepare_prosodic}


def run_teacher(name: str, recipe: EmoDistillRecipe, clips: EmotionClips, fold: int, folder: Path):
    """Trains and tests one teacher of a fold, and writes it and what it (or its held-out twins) says of all clips."""
    train, validation, test = split_rows(recipe, clips.speakers, fold)
    teacher, reader, make_batch, training = PREPARE_TEACHER[name](recipe, clips, train)
    teacher, said, history = train_teacher(teacher, make_batch, clips, train, validation, training, recipe.seed)
    if recipe.cross_fit is not None:
        said.logits[train] = held_out_logits(name, recipe, clips, train, validation)
    teacher.save_pretrained(folder / f"{name}_teacher")
    reader.save_pretrained(folder / f"{name}_teacher")
    write_predictions(folder / f"{name}_teacher.json", clips, test, said.logits[test], history)
    metadata = {"names": json.dumps(clips.names), "train": json.dumps([clips.names[row] for row in train])}
    save_file(asdict(said), folder / f"{name}_teacher.safetensors", metadata=metadata)


def held_out_logits(
    name: str, recipe: EmoDistillRecipe, clips: EmotionClips, train: list[int], validation: list[int]
) -> torch.Tensor:
    """
    What teachers say of the training clips when they were not trained on them: the training speakers in `recipe.cross_fit`
    parts, and for each a teacher of the other parts. (A teacher is surer of its own training clips than it has reason to be.)

    Returns:
        `torch.Tensor` `[len(train), num_labels]`.
    """
    speakers = sorted({clips.speakers[row] for row in train})
    if not 2 <= recipe.cross_fit <= len(speakers):
        raise ValueError(f"`cross_fit` must lie in 2..{len(speakers)} (training speakers), got {recipe.cross_fit}")
    logits = torch.full((len(train), len(recipe.labels)), torch.nan)
    for part in range(recipe.cross_fit):
        left_out = speakers[part :: recipe.cross_fit]
        rest = [row for row in train if clips.speakers[row] not in left_out]
        teacher, _, make_batch, training = PREPARE_TEACHER[name](recipe, clips, rest)
        _, said, _ = train_teacher(teacher, make_batch, clips, rest, validation, training, recipe.seed)
        places = [place for place, row in enumerate(train) if clips.speakers[row] in left_out]
        logits[places] = said.logits[[train[place] for place in places]]
    return logits


def load_teacher(path: Path, clips: EmotionClips, train: list[int]) -> TeacherOutputs:
    """
    What a teacher of a fold says of all clips.

    Raises:
        ValueError: There is none, or it is of other clips or was trained on others than the student will be.
    """
    if not path.exists():
        raise ValueError(f"`teachers_dir`: no {path}; run `--stage teachers` first")
    with safe_open(path, "pt") as file:
        if json.loads(file.metadata()["names"]) != clips.names:
            raise ValueError(f"`teachers_dir`: {path} is of other clips")
        if set(json.loads(file.metadata()["train"])) != {clips.names[row] for row in train}:
            raise ValueError(f"`teachers_dir`: the teacher of {path} was trained on other clips than the student's")
        return TeacherOutputs(file.get_tensor("logits"), file.get_tensor("embeddings"))


# ----- student


def build_student(recipe: EmoDistillRecipe, labels: Sequence[int], sizes: dict[str, int]):
    """
    A student with the weights of its speech encoder, and its feature extractor.

    Args:
        recipe: The recipe.
        labels: Classes of the training clips.
        sizes: Width of each teacher's embedding.
    """
    encoder = load_frozen(AutoModel, recipe.encoder, "main")
    config = EmoDistillConfig(
        encoder_config=encoder.config,
        linguistic_size=sizes["linguistic"],
        prosodic_size=sizes["prosodic"],
        **recipe.model,
        **_label_arguments(recipe, labels),
    )
    set_seed(recipe.seed)
    student = EmoDistillForAudioClassification(config)
    kind = config.encoder_config.model_type
    if kind == "affectcodec":
        encoder.decoder = None
        extractor = AutoFeatureExtractor.from_pretrained(recipe.encoder)
    elif kind == "whisper":
        encoder = encoder.get_encoder()
        extractor = EmoDistillFeatureExtractor.from_pretrained(recipe.encoder)
    else:
        extractor = AutoFeatureExtractor.from_pretrained(recipe.encoder, return_attention_mask=True)
    student.encoder = encoder.requires_grad_(recipe.train_encoder)
    if recipe.train_encoder and kind not in ("affectcodec", "whisper"):
        student.freeze_feature_encoder()
    return student, extractor


def teacher_sizes(recipe: EmoDistillRecipe) -> dict[str, int]:
    return {
        "linguistic": AutoConfig.from_pretrained(recipe.text_encoder).hidden_size,
        "prosodic": EmoDistillProsodicTeacherConfig(**recipe.prosodic_teacher).hidden_sizes[-1],
    }


def extract(extractor, waveforms: list[np.ndarray]) -> dict:
    # the one of the three whose default is not to pad
    options = {"padding": True} if isinstance(extractor, Wav2Vec2FeatureExtractor) else {}
    return extractor(waveforms, sampling_rate=SAMPLING_RATE, return_tensors="pt", **options)


def frame_encoder(student: EmoDistillForAudioClassification, extractor) -> Callable:
    """
    Waveform [T] -> two vectors [2, C] with the mean and the standard deviation of the speech encoder's frames: one below the
    other above the mean by the deviation. With these for frames the student says the same.
    """
    if torch.accelerator.is_available():
        student = student.to(torch.accelerator.current_accelerator())
    student.eval()

    @torch.no_grad()
    def encode(waveform: torch.Tensor) -> torch.Tensor:
        frames, mask = student.encode(**extract(extractor, [waveform.numpy()]).to(student.device))
        mean, deviation = masked_statistics(frames.float(), mask)[0].chunk(2)
        return torch.stack([mean - deviation, mean + deviation])

    return encode


def student_batches(recipe: EmoDistillRecipe, clips: EmotionClips, extractor) -> Callable:
    def make_batch(rows):
        if recipe.train_encoder:
            return extract(extractor, [clips.clips.waveforms[row] / np.float32(32768) for row in rows])
        return {"encoder_hidden_states": torch.stack([clips.streams[row] for row in rows])}

    return make_batch


def add_lora(student: EmoDistillForAudioClassification, lora: dict):
    """Freezes the speech encoder and puts low-rank matrices beside the ones that `lora` names."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("a student with LoRA needs `peft`: pip install 'hf-affectcodec[train]'") from error
    student.encoder = get_peft_model(student.encoder, LoraConfig(**lora))


def train_student(
    student, make_batch, clips: EmotionClips, teachers: dict, train, validation, recipe: EmoDistillRecipe
):
    """
    Args:
        student: In place; with `recipe.lora` its matrices are merged when it is trained.
        make_batch: Rows to its arguments.
        clips: For the labels.
        teachers: What each teacher says of all clips, [`TeacherOutputs`] by `linguistic` and `prosodic`; empty where the
            weights ask for none.
        train, validation: Rows.
        recipe: Settings.

    Returns:
        `tuple`: the student, in evaluation mode, and its history.
    """
    if recipe.standardize and not recipe.train_encoder:
        frames = torch.stack([clips.streams[row] for row in train])
        student.set_statistics(*_mean_and_std(student.pool(frames, torch.ones(frames.shape[:2]))))
    if recipe.lora is not None:
        add_lora(student, recipe.lora)

    def loss_of(outputs, rows):
        device = outputs.logits.device
        labels = torch.tensor([clips.labels[row] for row in rows], device=device)
        said = {
            name: TeacherOutputs(teacher.logits[rows].to(device), teacher.embeddings[rows].to(device))
            for name, teacher in teachers.items()
        }
        return emodistill_loss(outputs, labels, student.config, **said)

    student, history = fit(student, make_batch, loss_of, clips.labels, train, validation, recipe.student, recipe.seed)
    if recipe.lora is not None:
        student.encoder = student.encoder.merge_and_unload()
    return student, history


def teachers_in_use(config: EmoDistillConfig) -> list[str]:
    """The teachers that a weight above 0 asks for."""
    weights = {
        "linguistic": (config.linguistic_logit_weight, config.linguistic_embedding_weight),
        "prosodic": (config.prosodic_logit_weight, config.prosodic_embedding_weight),
    }
    return [name for name in TEACHERS if any(weights[name])]


def run_student(recipe: EmoDistillRecipe, clips: EmotionClips, fold: int, folder: Path, teachers_folder: Path):
    """Trains and tests the student of a fold, and writes its model and predictions."""
    train, validation, test = split_rows(recipe, clips.speakers, fold)
    student, extractor = build_student(recipe, [clips.labels[row] for row in train], teacher_sizes(recipe))
    teachers = {
        name: load_teacher(teachers_folder / f"{name}_teacher.safetensors", clips, train)
        for name in teachers_in_use(student.config)
    }
    make_batch = student_batches(recipe, clips, extractor)
    student, history = train_student(student, make_batch, clips, teachers, train, validation, recipe)
    student.save_pretrained(folder / "model")
    extractor.save_pretrained(folder / "model")
    write_predictions(folder / "predictions.json", clips, test, predict(student, make_batch, test)["logits"], history)


# ----- results


def write_predictions(path: Path, clips: EmotionClips, rows: Sequence[int], logits: torch.Tensor, history: list):
    result = {
        "speakers": sorted({clips.speakers[row] for row in rows}),
        "names": [clips.names[row] for row in rows],
        "labels": [clips.labels[row] for row in rows],
        "logits": logits.tolist(),
        "history": history,
    }
    path.write_text(json.dumps(result), encoding="utf-8")


def summarize_folds(paths: Sequence[Path], num_labels: int) -> dict:
    """
    Weighted accuracy, unweighted accuracy and macro-F1: of all tested clips together, of each fold, and their mean over
    folds with a bootstrap interval (over folds, as clips of one speaker are not independent).
    """
    folds = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(paths)]
    predicted = [np.argmax(fold["logits"], axis=1).tolist() for fold in folds]
    scores = [
        classification_scores(fold["labels"], found, range(num_labels))
        for fold, found in zip(folds, predicted, strict=True)
    ]
    labels = [label for fold in folds for label in fold["labels"]]
    everything = classification_scores(labels, [x for found in predicted for x in found], range(num_labels))
    summary = {"folds": len(folds), "clips": len(labels)}
    for name in ("weighted_accuracy", "unweighted_accuracy", "macro_f1"):
        values = [getattr(score, name) for score in scores]
        summary[name] = {
            "all_clips": getattr(everything, name),
            "folds": asdict(summarize(values)),
            "by_fold": {" ".join(fold["speakers"]): value for fold, value in zip(folds, values, strict=True)},
        }
    return summary


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", required=True, choices=["teachers", "student"])
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS), help="those to train")
    parser.add_argument("--teachers-dir", type=Path, default=None, help="output of the first stage; OUTPUT by default")
    parser.add_argument("--data-root", default="data", help="replaces {data_root} in the recipe's paths")
    parser.add_argument("--fold", type=int, nargs="+", default=None, help="folds to run; all by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    return parser.parse_args(arguments)


def run_teachers(args, recipe: EmoDistillRecipe, clips: EmotionClips, cache: Path):
    """What the teachers read, and the teachers of the folds that are not done."""
    if "linguistic" in args.teachers:
        clips.transcripts = load_transcripts(recipe, clips, cache / "transcripts.json")
    if "prosodic" in args.teachers:
        clips.opensmile = load_descriptors(clips, cache / "descriptors.safetensors")
    for fold, folder in _folders(args, recipe, clips):
        for name in args.teachers:
            if not (folder / f"{name}_teacher.safetensors").exists():
                run_teacher(name, recipe, clips, fold, folder)


def run_students(args, recipe: EmoDistillRecipe, clips: EmotionClips, cache: Path):
    """What the student reads, and the students of the folds that are not done."""
    if not recipe.train_encoder:
        student, extractor = build_student(recipe, clips.labels, teacher_sizes(recipe))
        digest = weights_sha256(student.encoder)
        settings = {"model": recipe.encoder, "weights_sha256": digest, "names": clips.names, "content": "mean, std"}
        clips.streams = load_frames(frame_encoder(student, extractor), settings, clips, cache / "frames")
    teachers_dir = args.output_dir if args.teachers_dir is None else args.teachers_dir
    for fold, folder in _folders(args, recipe, clips):
        if not (folder / "predictions.json").exists():
            run_student(recipe, clips, fold, folder, teachers_dir / folder.name)


def _folders(args, recipe: EmoDistillRecipe, clips: EmotionClips):
    folds = range(num_folds(recipe, clips.speakers)) if args.fold is None else args.fold
    for fold in tqdm(folds, desc="folds", unit="fold"):
        folder = args.output_dir / f"fold-{fold:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        yield fold, folder


def main(arguments=None):
    args = parse_arguments(arguments)
    recipe = load_recipe(args.recipe, args.data_root, args.set)
    cache = args.output_dir / "cache" if recipe.cache is None else Path(recipe.cache.format(data_root=args.data_root))
    cache.mkdir(parents=True, exist_ok=True)
    clips = load_emotion_clips(recipe)
    found = {"recipe": recipe.to_dict()}
    if args.stage == "teachers":
        run_teachers(args, recipe, clips, cache)
        for name in args.teachers:
            paths = list(args.output_dir.glob(f"fold-*/{name}_teacher.json"))
            found[name] = summarize_folds(paths, len(recipe.labels))
        path = args.output_dir / "teachers.json"
    else:
        run_students(args, recipe, clips, cache)
        found |= summarize_folds(list(args.output_dir.glob("fold-*/predictions.json")), len(recipe.labels))
        path = args.output_dir / "results.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "recipe"}, indent=1))


if __name__ == "__main__":
    main()
