"""
Trains the speech language model, one stage a run:

    accelerate launch training/train_tts.py --recipe training/recipes/tts/affectcodec-tts-mini.yaml --stage ar \\
        --data-root data --output-dir runs/affectcodec-tts-mini
    accelerate launch training/train_tts.py ... --stage nar ...

The stages share no weights: they may be run in either order (but `nar.start_from_ar` wants `ar` first), or into two output
folders (`--join OTHER` takes the other stage's weights from there). Each has its own folder `OUTPUT/STAGE` with checkpoints,
its weights, `log.jsonl`, `loss_curves.png` and the samples of every evaluation; `OUTPUT/model` is the whole model for
`pipeline("text-to-speech")`, which the second of the two completes. `--resume` goes on from the last checkpoint, bit for bit
on a CPU.

Data are what `tokenize_corpus.py` wrote, or clips, which are encoded first. With `lora`, `init_from` and `adamw` in the recipe
only an adapter is trained, and `OUTPUT/adapter-STAGE` is what `model.load_adapter` takes.
"""

import argparse
import json
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from codec_embeddings import embed_codes_as_codec
from codec_evaluation import draw_loss_curves
from codec_steps import TrainProgress, learning_rate_ratio
from guided_attention import guided_attention_loss
from safetensors.torch import load_file, save_file
from scaled_adam import ScaledAdam, eden
from stage_transfer import start_nar_from_ar
from tokenize_corpus import load_corpus_codec
from tqdm.auto import tqdm
from train_codec import RunLog, checkpoints, forget_rows_after, save_checkpoint, to_device
from transformers import AutoFeatureExtractor, AutoModel
from tts_batches import (
    DynamicBatches,
    begin_with_emotions,
    collate,
    collate_alignments,
    continue_prompt,
    load_utterances,
    segment_prompt,
)
from tts_evaluation import evaluate, speak_samples
from tts_recipe import GuidedAttentionRecipe, StageRecipe, TTSRecipe, load_recipe

from hf_affectcodec import (
    AffectCodecTTSConfig,
    AffectCodecTTSForConditionalGeneration,
    AffectCodecTTSProcessor,
    pretrained_path,
)


logger = get_logger(__name__)
STAGES = ("ar", "nar")
WEIGHTS = "stage.safetensors"


@dataclass
class TTSTrainer:
    """Everything that a step touches."""

    accelerator: Accelerator
    recipe: TTSRecipe
    stage: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batches: DynamicBatches
    utterances: list
    progress: TrainProgress

    @property
    def settings(self) -> StageRecipe:
        return self.recipe.stage(self.stage)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.batches.steps_per_epoch * self.settings.epochs


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--data-root", default="data", help="replaces {data_root} in the recipe's data paths")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT/STAGE")
    parser.add_argument(
        "--join", type=Path, metavar="RUN", help="output folder of the run that trained the other stage"
    )
    parser.add_argument("--max-minutes", type=float, default=None, help="write a checkpoint and stop after this time")
    parser.add_argument("--stop-at", type=int, default=None, metavar="STEP", help="write a checkpoint and stop there")
    parser.add_argument(
        "--report-to", nargs="*", default=[], choices=["trackio", "tensorboard"], help="trackers beside log.jsonl"
    )
    return parser.parse_args(arguments)


def build_model(recipe: TTSRecipe) -> tuple[AffectCodecTTSForConditionalGeneration, AffectCodecTTSProcessor]:
    """The model to start from and its processor: the recipe's `init_from`, or a new one around the codec."""
    if recipe.init_from is not None:
        model = AffectCodecTTSForConditionalGeneration.from_pretrained(recipe.init_from, dtype=torch.float32)
        return model, AffectCodecTTSProcessor.from_pretrained(recipe.init_from)
    source = recipe.codec or pretrained_path()
    codec = AutoModel.from_pretrained(source, dtype=torch.float32)
    codec_config = codec.config.to_dict()
    codec_config.pop("_name_or_path", None)  # a folder of this machine
    config = AffectCodecTTSConfig(codec_config=codec_config, **recipe.model)
    model = AffectCodecTTSForConditionalGeneration(config)
    model.codec_model.load_state_dict(codec.state_dict())
    if recipe.codec_embeddings:
        embed_codes_as_codec(model)
    return model, build_processor(config, source, recipe)


def build_processor(config: AffectCodecTTSConfig, codec: str, recipe: TTSRecipe) -> AffectCodecTTSProcessor:
    processor = AffectCodecTTSProcessor(
        AutoFeatureExtractor.from_pretrained(codec),
        language=recipe.language,
        emotions=recipe.emotions,
        min_prompt_seconds=config.min_prompt_frames / config.frame_rate,
        max_prompt_seconds=config.max_prompt_frames / config.frame_rate,
    )
    if len(processor.tokenizer) > config.text_vocab_size:
        raise ValueError(f"`model.text_vocab_size` must be at least {len(processor.tokenizer)}, the vocabulary's size")
    return processor


def build_trainer(recipe: TTSRecipe, stage: str, model, utterances, args) -> TTSTrainer:
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=recipe.mixed_precision,
        log_with=args.report_to or None,
        project_dir=str(args.output_dir / stage),
        # A step of the non-autoregressive stage does not touch the tables of the upper codebooks.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=stage == "nar")
        ],
    )
    if accelerator.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise RuntimeError(
            f"the launcher started {os.environ['WORLD_SIZE']} processes, but {accelerator.num_processes} found each other"
        )
    model.requires_grad_(False)
    if recipe.lora is None:
        getattr(model, stage).requires_grad_(True)
    else:
        add_lora(model, stage, recipe.lora)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if recipe.guided_attention is not None:
        check_guided_heads(recipe.guided_attention, model.config)
        guided = recipe.guided_attention
        # As Whisper's; `alignment_window` of `generate` can hold them to their place.
        model.generation_config.alignment_heads = [
            [layer, head] for layer in guided.layers for head in range(guided.heads)
        ]
        # The fused kinds of attention return no weights.
        model.set_attn_implementation("eager")
    settings = recipe.stage(stage)
    batches = DynamicBatches(
        [utterance.frames for utterance in utterances],
        max_frames=int(settings.max_seconds * model.config.frame_rate),
        seed=recipe.seed,
        accumulate=settings.accumulate,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        num_buckets=settings.num_buckets,
    )
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    progress = TrainProgress()
    accelerator.register_for_checkpointing(progress)
    # Ranks start from one seed so that their weights agree; from here on each draws its own dropout.
    torch.manual_seed(recipe.seed + 1 + accelerator.process_index)
    return TTSTrainer(accelerator, recipe, stage, model, optimizer, batches, utterances, progress)


def build_optimizer(model, recipe: TTSRecipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.adamw is None:
        settings = recipe.scaled_adam
        options = {"betas": tuple(settings.betas), "param_min_rms": settings.param_min_rms}
        return ScaledAdam(parameters, lr=settings.learning_rate, **options)
    settings = recipe.adamw
    return torch.optim.AdamW(
        parameters, settings.learning_rate, tuple(settings.betas), weight_decay=settings.weight_decay
    )


def check_guided_heads(settings: GuidedAttentionRecipe, config):
    """Raises where the model has no such layer or too few heads."""
    if not settings.layers or not all(0 <= layer < config.num_hidden_layers for layer in settings.layers):
        raise ValueError(
            f"`guided_attention.layers` must lie in 0..{config.num_hidden_layers - 1}, got {settings.layers}"
        )
    if not 1 <= settings.heads <= config.num_attention_heads:
        raise ValueError(f"`guided_attention.heads` must lie in 1..{config.num_attention_heads}, got {settings.heads}")


def add_lora(model, stage: str, settings: dict):
    """Low-rank adapters in every linear layer of a stage's attention and feed-forward."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("`lora` needs the package `peft`: pip install 'hf-affectcodec[train]'") from error
    modules = rf"{stage}\..*\.(q_proj|k_proj|v_proj|o_proj|up_proj|down_proj)"
    model.add_adapter(LoraConfig(target_modules=modules, **settings), adapter_name=stage)


def learning_rate(trainer: TTSTrainer) -> float:
    """Of the next step; a pure function of it."""
    recipe, step = trainer.recipe, trainer.progress.step
    if recipe.adamw is not None:
        settings = recipe.adamw
        return settings.learning_rate * learning_rate_ratio(replace(settings, steps=trainer.steps), step)
    settings = recipe.scaled_adam
    return eden(
        settings.learning_rate,
        step,
        step / trainer.batches.steps_per_epoch,
        settings.warmup_steps,
        settings.decay_steps,
        settings.decay_epochs,
    )


def prepared_batch(trainer: TTSTrainer, utterances: list, step: int, part: int) -> dict:
    """
    A batch with its acoustic prompt and the codebooks that it trains; drawn from seed, step and place alone.

    As in USLM, every batch of the non-autoregressive stage trains codebook 2 and one other, the same on every rank.
    """
    own = np.random.default_rng([trainer.recipe.seed, step, part, trainer.accelerator.process_index])
    utterances = begin_with_emotions(utterances, trainer.recipe.emotion_dropout, own)
    batch = {**collate(utterances), "alignment": collate_alignments(utterances)}
    if trainer.settings.text_dropout:
        batch["hidden_text"] = torch.from_numpy(own.random(len(utterances)) < trainer.settings.text_dropout)
    if trainer.stage == "ar":
        return batch
    settings, config = trainer.settings, trainer.accelerator.unwrap_model(trainer.model).config
    common = np.random.default_rng([trainer.recipe.seed, step, part])
    codebooks = (1,) if config.num_quantizers == 2 else (1, int(common.integers(2, config.num_quantizers)))
    has_prompt = settings.prefix_mode != 0 and own.random() >= settings.no_prompt_share
    share = own.uniform(0.25, 0.5)
    if has_prompt and settings.prefix_mode == 1:
        batch = continue_prompt(batch, share, config.max_prompt_frames)
    elif has_prompt:
        batch = segment_prompt(batch, share, config.max_prompt_frames, own)
    return {**batch, "codebooks": codebooks}


def num_targets(batch: dict) -> int:
    """Codes and ends of speech that a batch asks for."""
    if "codebooks" not in batch:
        return int(batch["audio_codes_mask"].sum()) + len(batch["audio_codes_mask"])
    targets = batch["audio_codes_mask"]
    if "prompt_mask" in batch:
        targets = targets & ~batch["prompt_mask"]
    if "loss_mask" in batch:
        targets = targets & batch["loss_mask"]
    return int(targets.sum()) * len(batch["codebooks"])


def train_step(trainer: TTSTrainer, batches: list[dict]) -> dict[str, float]:
    """
    One step of the optimizer.

    The gradient is that of the mean over all targets of the step, on every rank and in every batch; a non-finite one is
    skipped on every rank. ScaledAdam is indifferent to the scale of the loss, which the public recipes sum.

    Returns:
        Loss in nats a target, share of targets that are predicted rightly, norm of the gradient, learning rate, epoch; with
        guided attention its loss a target, which is not part of the loss.
    """
    accelerator, model, recipe = trainer.accelerator, trainer.model, trainer.recipe
    rate = learning_rate(trainer)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    trainer.optimizer.zero_grad(set_to_none=True)
    targets = torch.tensor(float(sum(num_targets(batch) for batch in batches)), device=accelerator.device)
    # Ranks' gradients are averaged.
    divisor = float(accelerator.reduce(targets)) / accelerator.num_processes
    guided = recipe.guided_attention
    weight = 0.0 if guided is None else guided_weight(guided, trainer.progress.step)
    options = {"output_attentions": True} if weight else {}
    loss_sum = guided_sum = correct = 0.0
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        batch = to_device(batch, accelerator.device)
        alignment = batch.pop("alignment", None)
        with nullcontext() if last else accelerator.no_sync(model):
            outputs = model(**batch, stage=trainer.stage, loss_reduction="sum", **options)
            loss = outputs.loss
            if weight:
                off_diagonal = guided_loss(outputs.attentions, batch, alignment, guided)
                loss = loss + weight * off_diagonal
                guided_sum += float(off_diagonal.detach())
            accelerator.backward(loss / divisor)
        loss_sum += float(outputs.loss.detach())
        correct += int((outputs.logits.detach().argmax(-1) == outputs.labels).sum())
    limit = recipe.adamw.max_grad_norm if recipe.adamw is not None else float("inf")
    norm = accelerator.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], limit)
    epoch = trainer.progress.step / trainer.batches.steps_per_epoch
    count_step(trainer, bool(torch.isfinite(norm)))
    trainer.progress.step += 1
    sums = accelerator.reduce(torch.tensor([loss_sum, correct, guided_sum], device=accelerator.device)).tolist()
    total = divisor * accelerator.num_processes
    return {
        "loss": sums[0] / total,
        "accuracy": sums[1] / total,
        **({} if not weight else {"guided_attention_loss": sums[2] / total}),
        "grad_norm": float(norm),
        "learning_rate": rate,
        "epoch": epoch,
    }


def guided_weight(settings: GuidedAttentionRecipe, step: int) -> float:
    """Of guided attention at a step."""
    left = 1.0 if settings.steps is None else max(0.0, 1 - step / settings.steps)
    return settings.weight * left


def guided_loss(attentions, batch: dict, alignment: torch.Tensor, settings: GuidedAttentionRecipe) -> torch.Tensor:
    """Of the first stage, or summed over the codebooks of the second."""
    frames = batch["audio_codes_mask"]
    if "loss_mask" in batch:
        # The prompt was put before the utterance: the text is said after it.
        frames = frames & ~batch["prompt_mask"]
    if "hidden_text" in batch:
        frames = frames & ~batch["hidden_text"][:, None]
    stages = [attentions]
    if "codebooks" in batch:
        stages = [[layer[:, index] for layer in attentions] for index in range(len(batch["codebooks"]))]
    return sum(
        guided_attention_loss(
            stage,
            batch["attention_mask"],
            frames,
            settings.layers,
            settings.heads,
            settings.width,
            alignment,
            settings.symbol_width,
        )
        for stage in stages
    )


def count_step(trainer: TTSTrainer, finite: bool):
    """Steps the optimizer, unless the gradient is not finite."""
    progress = trainer.progress
    if finite:
        progress.nonfinite_in_a_row = 0
        trainer.optimizer.step()
        return
    progress.nonfinite_steps += 1
    progress.nonfinite_in_a_row += 1
    trainer.optimizer.zero_grad(set_to_none=True)
    if progress.nonfinite_in_a_row > trainer.recipe.max_nonfinite_steps:
        raise RuntimeError(
            f"{progress.nonfinite_in_a_row} steps in a row had non-finite gradients; lower `learning_rate` or look at the data"
        )


class StageLog(RunLog):
    """Means over `log_every` steps, to `log.jsonl` and to the trackers; main process only."""

    def write(self):
        row = {name: total / self.counts[name] for name, total in self.sums.items()}
        row["seconds"] = time.monotonic() - self.since
        row["nonfinite_steps"] = self.trainer.progress.nonfinite_steps
        self.emit(row)
        self.sums, self.counts, self.since = {}, {}, time.monotonic()


def run_evaluation(
    trainer: TTSTrainer, log: StageLog, validation: list, processor, other_is_trained: bool, folder: Path
):
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        state = torch.random.get_rng_state()
        model.eval()
        results = evaluate(model, trainer.stage, validation, trainer.settings)
        samples = folder / "samples" / f"{trainer.progress.step:08d}"
        results |= speak_samples(
            model, processor, trainer.stage, validation, other_is_trained, trainer.recipe, samples
        )
        torch.random.set_rng_state(state)
        log.emit({f"validation_{name}": value for name, value in results.items()})
    trainer.accelerator.wait_for_everyone()


def train(trainer: TTSTrainer, validation: list, processor, other_is_trained: bool, folder: Path, args):
    """Steps until the recipe's end, until the time is up or until `--stop-at`."""
    recipe, progress, started = trainer.recipe, trainer.progress, time.monotonic()
    log = StageLog(trainer, folder / "log.jsonl")
    steps, part = trainer.steps, getattr(trainer.accelerator.unwrap_model(trainer.model), trainer.stage)
    is_main = trainer.accelerator.is_main_process
    bar = tqdm(initial=progress.step, total=steps, unit="step", disable=not is_main, mininterval=5)
    while progress.step < steps:
        # Only what is trained has dropout.
        trainer.model.eval()
        part.train()
        groups = trainer.batches[progress.step]
        batches = [
            prepared_batch(trainer, [trainer.utterances[row] for row in group], progress.step, index)
            for index, group in enumerate(groups)
        ]
        scalars = train_step(trainer, batches)
        log.add(scalars)
        bar.update()
        last = progress.step == steps
        # Rank 0's clock decides for all, else ranks would part.
        spent = torch.tensor([time.monotonic() - started], device=trainer.accelerator.device)
        stop = args.max_minutes is not None and float(trainer.accelerator.gather(spent)[0]) > 60 * args.max_minutes
        stop = stop or progress.step == args.stop_at
        if progress.step % recipe.log_every == 0 or last or stop:
            bar.set_postfix(loss=f"{scalars['loss']:.3f}", accuracy=f"{scalars['accuracy']:.3f}", refresh=False)
            log.write()
        if validation and (progress.step % recipe.evaluate_every == 0 or last):
            run_evaluation(trainer, log, validation, processor, other_is_trained, folder)
        if progress.step % recipe.checkpoint_every == 0 or last or stop:
            save_checkpoint(trainer, None, folder)
        if stop:
            break
    bar.close()


def check_same_run(recipe: TTSRecipe, stored: Path):
    """A resumed run may get other epochs or rates, but not another network or another order of data."""
    before, now = yaml.safe_load(stored.read_text(encoding="utf-8")), json.loads(json.dumps(recipe.to_dict()))
    for name in (
        "model",
        "codec",
        "init_from",
        "lora",
        "seed",
        "train",
        "language",
        "languages",
        "emotions",
        "min_seconds",
        "max_seconds",
    ):
        if before[name] != now[name]:
            raise SystemExit(f"--resume: `{name}` of the recipe differs from the run's own in {stored}")


def take_other_stage(model, stage: str, run: Path) -> bool:
    """Takes the other stage's weights from a run that has trained it; whether there are any."""
    other = STAGES[1 - STAGES.index(stage)]
    path = run / other / WEIGHTS
    if path.exists():
        getattr(model, other).load_state_dict(load_file(path))
    return path.exists()


def save_model(trainer: TTSTrainer, processor, output_dir: Path):
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.recipe.lora is not None:
        model.save_pretrained(output_dir / f"adapter-{trainer.stage}")
        return
    save_file(getattr(model, trainer.stage).state_dict(), output_dir / trainer.stage / WEIGHTS)
    model.save_pretrained(output_dir / "model")
    processor.save_pretrained(output_dir / "model")


def main(arguments=None):
    args = parse_arguments(arguments)
    recipe = load_recipe(args.recipe, args.data_root, args.set)
    folder = args.output_dir / args.stage
    found = checkpoints(folder)
    if found and not args.resume:
        raise SystemExit(f"--output-dir {folder} holds checkpoints; add --resume or name another folder")
    if args.resume:
        if not found:
            raise SystemExit(f"--resume: no checkpoint in {folder}")
        check_same_run(recipe, folder / "recipe.yaml")
    set_seed(recipe.seed)
    model, processor = build_model(recipe)
    other_is_trained = recipe.init_from is not None
    for run in (args.output_dir, args.join):
        if run is not None:
            other_is_trained = take_other_stage(model, args.stage, run) or other_is_trained
    if args.stage == "nar" and recipe.nar.start_from_ar and not args.resume:
        if not other_is_trained:
            raise SystemExit("`nar.start_from_ar`: train `--stage ar` first, or name its run by --join")
        start_nar_from_ar(model)
    codec = load_corpus_codec(recipe.codec)
    limits = (recipe.language, recipe.min_seconds, recipe.max_seconds, recipe.languages)
    utterances = [u for source in recipe.train for u in load_utterances(source, processor, codec, *limits)]
    validation = [u for source in recipe.validation for u in load_utterances(source, processor, codec, *limits)]
    trainer = build_trainer(recipe, args.stage, model, utterances, args)
    if trainer.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe.to_dict()))), encoding="utf-8")
    trainer.accelerator.init_trackers("affectcodec-tts", config={"recipe": recipe.name, "seed": recipe.seed})
    if args.resume:
        trainer.accelerator.load_state(str(found[-1]))
        # A checkpoint holds the whole model; the other stage may have been trained further since.
        for run in (args.output_dir, args.join):
            if run is not None:
                take_other_stage(trainer.accelerator.unwrap_model(trainer.model), args.stage, run)
        if trainer.accelerator.is_main_process:
            forget_rows_after(folder / "log.jsonl", trainer.progress.step)
    if args.stop_at is not None and args.stop_at <= trainer.progress.step:
        raise SystemExit(f"--stop-at {args.stop_at}: the run is already at step {trainer.progress.step}")
    train(trainer, validation[: recipe.evaluation_clips], processor, other_is_trained, folder, args)
    trainer.accelerator.end_training()
    if trainer.accelerator.is_main_process:
        save_model(trainer, processor, args.output_dir)
        draw_loss_curves(folder / "log.jsonl", folder / "loss_curves.png")


if __name__ == "__main__":
    main()
