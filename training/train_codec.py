"""
Trains the codec.

    accelerate launch training/train_codec.py --recipe training/recipes/codec/affectcodec-mini.yaml \
        --data-root data --output-dir runs/affectcodec-mini

`--resume` goes on from the last checkpoint in the output folder, bit for bit on a CPU. `--set key=value` changes a value of
the recipe. The result is `OUTPUT/model` and `OUTPUT/discriminator`, both for `from_pretrained`, with `log.jsonl`,
`loss_curves.png` and the samples of every evaluation beside them.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from codec_distillation import TeacherCrops, guidance_arguments
from codec_evaluation import draw_loss_curves, evaluate
from codec_steps import CodecTrainer, TrainProgress, train_step
from recipe import check_corpora, load_recipe
from tqdm.auto import tqdm

from hf_affectcodec import (
    AffectCodecConfig,
    AffectCodecDiscriminator,
    AffectCodecDiscriminatorConfig,
    AffectCodecFeatureExtractor,
    AffectCodecModel,
)
from hf_affectcodec.data.clips import RandomCrops, load_clips
from hf_affectcodec.data.streaming import StreamedCrops, load_first_clips
from hf_affectcodec.hub import push_run
from hf_affectcodec.metrics.codebook_usage import codebook_usage


logger = get_logger(__name__)
COLLAPSED_USAGE = 0.2
# A tenth of a second: under a frame there is nothing to encode, and a little above nothing to learn.
MIN_SAMPLES = 1600


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--data-root", default="data", help="replaces {data_root} in the recipe's data paths")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output-dir")
    parser.add_argument("--max-minutes", type=float, default=None, help="write a checkpoint and stop after this time")
    parser.add_argument("--stop-at", type=int, default=None, metavar="STEP", help="write a checkpoint and stop there")
    parser.add_argument(
        "--push-to-hub", default=None, metavar="ORG/NAME", help="upload what the run leaves to a private repository"
    )
    parser.add_argument(
        "--report-to", nargs="*", default=[], choices=["trackio", "tensorboard"], help="trackers beside log.jsonl"
    )
    return parser.parse_args(arguments)


def build_trainer(recipe, report_to, output_dir) -> CodecTrainer:
    config = AffectCodecConfig(**recipe.model)
    # Guidance and the heads of the teachers get no gradient in a step without teacher features, and DDP must know.
    unused = bool(config.guidance_sources or config.feature_distillation_sources)
    unused = unused or config.alignment_feature_size is not None
    accelerator = Accelerator(
        # Without this, ranks that torchrun starts on a machine without accelerator do not find each other.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=recipe.mixed_precision,
        log_with=report_to or None,
        project_dir=str(output_dir),
        # Codebooks are kept equal by their own all-reduce; broadcasting rank 0's would throw the other ranks' away.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused)],
    )
    if accelerator.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise RuntimeError(
            f"the launcher started {os.environ['WORLD_SIZE']} processes, but {accelerator.num_processes} found each other"
        )
    set_seed(recipe.seed)
    model = AffectCodecModel(config)
    if recipe.initial_model is not None:
        start_from(model, recipe.initial_model)
    if recipe.weight_norm:
        model.apply_weight_norm()
    # The codec comes first: it is the checkpoint's model.safetensors, the discriminators its model_1.safetensors.
    model, optimizer = accelerator.prepare(model, _adamw(model, recipe.learning_rate, recipe))
    discriminator = discriminator_optimizer = None
    if recipe.discriminator is not None:
        discriminator = AffectCodecDiscriminator(AffectCodecDiscriminatorConfig(**recipe.discriminator))
        if recipe.initial_discriminator is not None:
            start_from(discriminator, recipe.initial_discriminator, subfolder="discriminator")
        discriminator.apply_weight_norm()
        discriminator_optimizer = _adamw(discriminator, recipe.discriminator_learning_rate, recipe)
        discriminator, discriminator_optimizer = accelerator.prepare(discriminator, discriminator_optimizer)
    progress = TrainProgress()
    accelerator.register_for_checkpointing(progress)
    # Ranks start from one seed so that their weights agree; from here on each draws its own dropout.
    torch.manual_seed(recipe.seed + 1 + accelerator.process_index)
    counts = torch.zeros(config.num_quantizers, config.codebook_size, dtype=torch.long)
    return CodecTrainer(
        accelerator, recipe, model, optimizer, discriminator, discriminator_optimizer, progress, counts
    )


def start_from(model, source: str, subfolder: str = ""):
    """
    Copies trained weights into `model`; whole modules that they lack stay as they are, and are named in the log.

    Raises:
        ValueError: if they hold something that `model` has not, or has in another shape.
    """
    trained = type(model).from_pretrained(source, subfolder=subfolder, dtype=torch.float32).state_dict()
    own = model.state_dict()
    for name, values in trained.items():
        if name not in own or own[name].shape != values.shape:
            raise ValueError(f"{source} holds {name} {list(values.shape)}, which the recipe's model has not")
    model.load_state_dict(own | trained)
    fresh = sorted({name.split(".")[0] for name in own.keys() - trained.keys()})
    if fresh:
        logger.info(f"started from {source}; fresh: {', '.join(fresh)}")


def _adamw(module, learning_rate, recipe):
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )


def load_data(sources, sampling_rate) -> tuple[list, list[str]]:
    """The waveforms [T] int16 of all sources together, and their names."""
    waveforms, names = [], []
    for source in sources:
        clips = load_clips(source.source, source.split, source.column_map, sampling_rate, source.config_name)
        waveforms += clips.waveforms
        names += clips.names
    too_short = [name for waveform, name in zip(waveforms, names, strict=True) if len(waveform) < MIN_SAMPLES]
    if too_short:
        logger.warning(f"{len(too_short)} clips under {MIN_SAMPLES} samples are left out, the first is {too_short[0]}")
    kept = [(w, n) for w, n in zip(waveforms, names, strict=True) if len(w) >= MIN_SAMPLES]
    return [waveform for waveform, _ in kept], [name for _, name in kept]


def load_validation(recipe, sampling_rate) -> list[torch.Tensor]:
    """Waveforms [T] of the first clips; a recipe that streams reads no more than those."""
    if recipe.streaming:
        clips = []
        for source in recipe.validation:
            clips += load_first_clips(source.to_stream(), recipe.evaluation_clips - len(clips), sampling_rate)
    else:
        clips = load_data(recipe.validation, sampling_rate)[0][: recipe.evaluation_clips]
    return [torch.from_numpy(clip).float() / 32768 for clip in clips]


def build_crops(recipe, config, accelerator):
    """Batches by step, with teacher features where the recipe has teachers, streamed where it says so."""
    if recipe.streaming:
        return StreamedCrops(
            [source.to_stream() for source in recipe.train],
            crop_samples=round(recipe.crop_seconds * config.sampling_rate),
            batch_size=recipe.batch_size,
            sampling_rate=config.sampling_rate,
            seed=recipe.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            num_workers=recipe.stream_workers,
            read_ahead=recipe.kmeans_batches,  # `start_codebooks` looks at batches that are trained on after it
            buffer_size=recipe.stream_buffer_size,
            gain_db=recipe.gain_db,
            min_samples=MIN_SAMPLES,
        )
    waveforms, names = load_data(recipe.train, config.sampling_rate)
    crops = RandomCrops(
        waveforms,
        crop_samples=round(recipe.crop_seconds * config.sampling_rate),
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        gain_db=recipe.gain_db,
        start_multiple=config.hop_length if recipe.teachers is not None else 1,
    )
    return crops if recipe.teachers is None else TeacherCrops(crops, names, recipe.teachers)


@torch.no_grad()
def start_codebooks(trainer: CodecTrainer, crops):
    """
    k-means of every codebook on the latents of the next `kmeans_batches` batches, more than one batch could hold.

    At step 0 the encoder is random; a second start some hundred steps later, when it says something, fills the codebooks.
    """
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    latents = []
    for offset in range(trainer.recipe.kmeans_batches):
        batch = to_device(crops[trainer.progress.step + offset], trainer.accelerator.device)
        guidance = guidance_arguments(trainer, batch)
        with trainer.accelerator.autocast():
            outputs = model.encode(batch["input_values"], padding_mask=batch["padding_mask"], **guidance)
        latents.append(outputs.latents.float()[outputs.audio_codes_mask])
    model.quantizer.initialize(torch.cat(latents), trainer.recipe.kmeans_batches)


def to_device(batch, device):
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in output_dir.glob("checkpoint-*") if path.suffix != ".part")


def stream_file(checkpoint: Path, trainer: CodecTrainer) -> Path:
    """Each rank is somewhere else in its part of the stream."""
    return checkpoint / f"stream_{trainer.accelerator.process_index}.json"


def save_checkpoint(trainer: CodecTrainer, crops, output_dir: Path):
    """Everything that `--resume` needs; under a temporary name until it is whole."""
    target = output_dir / f"checkpoint-{trainer.progress.step:08d}"
    part = target.with_suffix(".part")
    trainer.accelerator.save_state(str(part))
    if trainer.recipe.streaming:
        state = json.dumps(crops.state_dict(trainer.progress.step))
        stream_file(part, trainer).write_text(state, encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in checkpoints(output_dir)[: -trainer.recipe.keep_checkpoints]:
            shutil.rmtree(old)
    trainer.accelerator.wait_for_everyone()


def load_stream(crops, checkpoint: Path, trainer: CodecTrainer):
    path = stream_file(checkpoint, trainer)
    if not path.exists():
        raise SystemExit(f"--resume: {path} is missing; a stream goes on with as many processes as it was saved with")
    try:
        crops.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise SystemExit(f"--resume: {path}: {error}") from error


def save_models(trainer: CodecTrainer, output_dir: Path):
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(output_dir / "model")
    extractor = AffectCodecFeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=model.hop_length)
    extractor.save_pretrained(output_dir / "model")
    if trainer.discriminator is not None:
        trainer.accelerator.unwrap_model(trainer.discriminator).save_pretrained(output_dir / "discriminator")


class RunLog:
    """Means over `log_every` steps, to `log.jsonl` and to the trackers; main process only."""

    def __init__(self, trainer: CodecTrainer, path: Path):
        self.trainer, self.path = trainer, path
        self.sums, self.counts, self.since = {}, {}, time.monotonic()

    def add(self, scalars: dict[str, float]):
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def write(self, clip_counts: dict[str, int]):
        """`clip_counts`: of this rank's stream, else empty; the row has their sums over ranks."""
        row = {name: total / self.counts[name] for name, total in self.sums.items()}
        counts = self.trainer.accelerator.reduce(self.trainer.code_counts.to(self.trainer.accelerator.device)).cpu()
        statistics = codebook_usage(counts)
        usages, perplexities = statistics.usage.tolist(), statistics.perplexity.tolist()
        row |= {"usage_min": min(usages), "perplexity_min": min(perplexities)}
        row |= {f"perplexity_{q}": value for q, value in enumerate(perplexities)}
        row |= {f"usage_{q}": value for q, value in enumerate(usages)}
        row["seconds"] = time.monotonic() - self.since
        row["nonfinite_steps"] = self.trainer.progress.nonfinite_steps
        if clip_counts:
            summed = torch.tensor(list(clip_counts.values()), device=self.trainer.accelerator.device)
            row |= dict(zip(clip_counts, self.trainer.accelerator.reduce(summed).tolist(), strict=True))
        for layer, usage in enumerate(usages):
            if usage < COLLAPSED_USAGE:
                logger.warning(f"codebook {layer} has collapsed: {usage:.1%} of its entries in use")
        self.emit(row)
        self.sums, self.counts, self.since = {}, {}, time.monotonic()
        self.trainer.code_counts.zero_()

    def emit(self, row: dict):
        step = self.trainer.progress.step
        self.trainer.accelerator.log(row, step=step)
        if self.trainer.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **row}) + "\n")


def check_same_run(recipe, stored: Path):
    """A resumed run may get other step counts or weights of losses, but not another network or another order of data."""
    # By the same reader, so that keys which are younger than the stored recipe have their defaults on both sides.
    before, now = load_recipe(stored).to_dict(), recipe.to_dict()
    names = ("model", "discriminator", "seed", "batch_size", "crop_seconds", "train", "streaming")
    if recipe.streaming:
        names += ("stream_workers", "stream_buffer_size")
    for name in names:
        if before[name] != now[name]:
            raise SystemExit(f"--resume: `{name}` of the recipe differs from the run's own in {stored}")


def forget_rows_after(log_file: Path, step: int):
    """Rows that a killed run wrote after its last checkpoint are about to be written again."""
    if log_file.exists():
        lines = log_file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        log_file.write_text("".join(kept), encoding="utf-8")


def run_evaluation(trainer: CodecTrainer, log: RunLog, waveforms, output_dir: Path):
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        folder = output_dir / "samples" / f"{trainer.progress.step:08d}"
        results = evaluate(model, waveforms, model.config.sampling_rate, folder)
        log.emit({f"validation_{k}": min(v) if isinstance(v, list) else v for k, v in results.items()})
    trainer.accelerator.wait_for_everyone()


def train(trainer: CodecTrainer, crops, waveforms, output_dir: Path, max_minutes: float | None, stop_at: int | None):
    """Steps until the recipe's end, until the time is up or until `stop_at`."""
    recipe, progress, started = trainer.recipe, trainer.progress, time.monotonic()
    log = RunLog(trainer, output_dir / "log.jsonl")
    bar = tqdm(
        initial=progress.step,
        total=recipe.steps,
        unit="step",
        disable=not trainer.accelerator.is_main_process,
        mininterval=5,
    )
    while progress.step < recipe.steps:
        if progress.step in recipe.kmeans_steps:
            start_codebooks(trainer, crops)
        scalars = train_step(trainer, to_device(crops[progress.step], trainer.accelerator.device))
        log.add(scalars)
        bar.update()
        last = progress.step == recipe.steps
        # Rank 0's clock decides for all, else ranks would part.
        spent = torch.tensor([time.monotonic() - started], device=trainer.accelerator.device)
        stop = max_minutes is not None and float(trainer.accelerator.gather(spent)[0]) > 60 * max_minutes
        stop = stop or progress.step == stop_at
        if progress.step % recipe.log_every == 0 or last or stop:
            bar.set_postfix(mel=f"{scalars['mel']:.3f}", refresh=False)
            log.write(crops.counts() if recipe.streaming else {})
        if waveforms and (progress.step % recipe.evaluate_every == 0 or last):
            run_evaluation(trainer, log, waveforms, output_dir)
        if progress.step % recipe.checkpoint_every == 0 or last or stop:
            save_checkpoint(trainer, crops, output_dir)
        if stop:
            break
    bar.close()


def main(arguments=None):
    args = parse_arguments(arguments)
    recipe = load_recipe(args.recipe, args.data_root, args.set)
    try:
        check_corpora(recipe)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error
    found = checkpoints(args.output_dir)
    if found and not args.resume:
        raise SystemExit(f"--output-dir {args.output_dir} holds checkpoints; add --resume or name another folder")
    if args.resume and not found:
        raise SystemExit(f"--resume: no checkpoint in {args.output_dir}")
    if args.resume:
        check_same_run(recipe, args.output_dir / "recipe.yaml")
    trainer = build_trainer(recipe, args.report_to, args.output_dir)
    if trainer.accelerator.is_main_process:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        (args.output_dir / "recipe.yaml").write_text(
            yaml.safe_dump(json.loads(json.dumps(recipe.to_dict()))), encoding="utf-8"
        )
    trainer.accelerator.init_trackers("affectcodec", config={"recipe": recipe.name, "seed": recipe.seed})
    config = trainer.accelerator.unwrap_model(trainer.model).config
    crops = build_crops(recipe, config, trainer.accelerator)
    waveforms = load_validation(recipe, config.sampling_rate)
    if args.resume:
        trainer.accelerator.load_state(str(found[-1]))
        if recipe.streaming:
            load_stream(crops, found[-1], trainer)
        logger.info(f"resumed {found[-1]} at step {trainer.progress.step}")
        if trainer.accelerator.is_main_process:
            forget_rows_after(args.output_dir / "log.jsonl", trainer.progress.step)
    if args.stop_at is not None and args.stop_at <= trainer.progress.step:
        raise SystemExit(f"--stop-at {args.stop_at}: the run is already at step {trainer.progress.step}")
    train(trainer, crops, waveforms, args.output_dir, args.max_minutes, args.stop_at)
    trainer.accelerator.end_training()
    if trainer.accelerator.is_main_process:
        save_models(trainer, args.output_dir)
        draw_loss_curves(args.output_dir / "log.jsonl", args.output_dir / "loss_curves.png")
        if args.push_to_hub is not None:
            try:
                logger.info(f"pushed: {push_run(args.output_dir, args.push_to_hub)}")
            except ConnectionError as error:
                raise SystemExit(f"--push-to-hub: {error}; `python -m hf_affectcodec.hub push` tries again") from error


if __name__ == "__main__":
    main()
