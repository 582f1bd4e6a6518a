"""
Speed of a training step, beside SpeechTokenizer's own trainer at the same batch and crop.

    python training/training_speed.py --recipe training/recipes/codec/affectcodec.yaml --data-root data --batch-sizes 4 \\
        --set crop_seconds=1 --set 'mixed_precision="no"'

For each batch size the seconds of a step with all its terms, those of its batch from the loader, and the largest memory; then the
step of SpeechTokenizer (PyPI `speechtokenizer`: its trainer, its discriminators, our network's sizes) in the same process and on
the same samples. `--profile` prints what our step's time goes to. Recipes without teachers and without streams.

Memory is that of the step on an accelerator; on a CPU it is the process's largest so far, so batch sizes grow, and `--no-peer`
keeps SpeechTokenizer's out of it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from codec_steps import train_step
from recipe import load_recipe
from tqdm.auto import tqdm
from train_codec import build_crops, build_trainer, start_codebooks, to_device

from hf_affectcodec.benchmarks.memory import peak_memory


# What SpeechTokenizer's published configuration says, at 16 kHz; files and steps are not read.
PEER_CONFIG = {
    "seed": 0,
    "log_steps": 10**9,
    "stdout_steps": 10**9,
    "save_model_steps": 10**9,
    "num_ckpt_keep": 1,
    "epochs": 1,
    "num_warmup_steps": 0,
    "sample_rate": 16000,
    "mel_loss_lambdas": [45, 1, 1, 1],
    "commitment_loss_lambda": 10,
    "recon_loss_lambda": 500,
    "distill_loss_lambda": 0,
    "n_fft": 1024,
    "num_mels": 80,
    "hop_size": 240,
    "win_size": 1024,
    "fmin": 0,
    "fmax": 8000,
    "fmax_for_loss": None,
    "num_workers": 0,
    "learning_rate": 1e-4,
    "intial_learning_rate": 1e-4,
    "wd": 0.0,
    "betas": [0.9, 0.99],
}


def reset_accelerate():
    """Lets the next `Accelerator` start anew."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def synchronize():
    """Waits until the accelerator, if there is one, has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def largest_memory() -> float:
    """GB: of the accelerator since the last reset, or of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_memory()


class TimedBatches:
    """One batch `rounds + 1` times; `seconds` are those from one request to the next, without the first."""

    def __init__(self, batch, rounds: int):
        self.batch, self.rounds, self.seconds = batch, rounds, []

    def __iter__(self):
        for step in range(self.rounds + 1):
            synchronize()
            start = time.perf_counter()
            yield self.batch
            synchronize()
            if step:
                self.seconds.append(time.perf_counter() - start)


def build_own(recipe, folder: Path):
    """Our trainer with adversarial terms from the first step on, and its batches by step."""
    recipe.discriminator_start, recipe.kmeans_steps, recipe.warmup_steps = 0, (), 0
    recipe.initial_model = recipe.initial_discriminator = None
    reset_accelerate()
    trainer = build_trainer(recipe, [], folder)
    crops = build_crops(recipe, trainer.accelerator.unwrap_model(trainer.model).config, trainer.accelerator)
    start_codebooks(trainer, crops)
    return trainer, crops


def own_steps(trainer, crops, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of `rounds` steps and of their batches; the first of each warms up and is not kept."""
    steps, loads = [], []
    for step in tqdm(range(rounds + 1), desc="ours"):
        start = time.perf_counter()
        batch = to_device(crops[step], trainer.accelerator.device)
        synchronize()
        middle = time.perf_counter()
        train_step(trainer, batch)
        synchronize()
        if step:
            loads.append(middle - start)
            steps.append(time.perf_counter() - middle)
    return steps, loads


def peer_steps(waveforms: torch.Tensor, num_filters: int, rounds: int) -> list[float]:
    """
    Seconds of `rounds` steps of SpeechTokenizer's trainer on waveforms [B, 1, T], all three of its discriminators.

    Raises:
        ImportError: `speechtokenizer` or what its trainer needs is missing.
    """
    try:
        from speechtokenizer import SpeechTokenizerTrainer
        from speechtokenizer.discriminators import (
            MultiPeriodDiscriminator,
            MultiScaleDiscriminator,
            MultiScaleSTFTDiscriminator,
        )
    except ImportError as error:
        raise ImportError("the peer's step needs `speechtokenizer`: pip install hf-affectcodec[dev]") from error
    from hf_affectcodec.benchmarks.speed import build_peer

    reset_accelerate()
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "files.txt"
        listed.write_text("nothing\tnothing\n" * len(waveforms))
        trainer = SpeechTokenizerTrainer(
            generator=build_peer(num_filters),
            discriminators={
                "mpd": MultiPeriodDiscriminator(),
                "msd": MultiScaleDiscriminator(),
                "mstftd": MultiScaleSTFTDiscriminator(32),
            },
            cfg=PEER_CONFIG
            | {
                "results_folder": str(Path(folder) / "results"),
                "batch_size": len(waveforms),
                "segment_size": waveforms.shape[-1],
                "train_files": str(listed),
                "valid_files": str(listed),
            },
            accelerate_kwargs={"cpu": not torch.accelerator.is_available()},
        )
        frames = waveforms.shape[-1] // trainer.generator.downsample_rate
        batches = TimedBatches(
            (waveforms[:, 0].to(trainer.device), torch.randn(len(waveforms), frames, 768, device=trainer.device)),
            rounds,
        )
        trainer.dl = batches
        trainer.train()
        trainer.writer.close()
    return batches.seconds


def profile_step(trainer, batch, rows: int = 12) -> str:
    """The operators that one step spends most of its own time in."""
    with torch.profiler.profile() as profiler:
        train_step(trainer, batch)
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=45)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="ours only")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    trainer = None
    print(
        "| batch | step, s | batch from the loader, s | largest memory, GB | SpeechTokenizer, s | x SpeechTokenizer |"
    )
    print("|---|---|---|---|---|---|")
    for batch_size in sorted(args.batch_sizes):
        trainer = crops = None  # before the next is built: both would not fit
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        overrides = [*args.set, f"batch_size={batch_size}", "kmeans_batches=2"]
        recipe = load_recipe(args.recipe, args.data_root, overrides)
        if recipe.teachers is not None or recipe.streaming:
            raise SystemExit(f"--recipe {args.recipe} has `teachers` or `streaming`")
        with tempfile.TemporaryDirectory() as folder:
            trainer, crops = build_own(recipe, Path(folder))
            steps, loads = own_steps(trainer, crops, args.rounds)
        memory, median = largest_memory(), statistics.median(steps)
        cells = ["", ""]
        if not args.no_peer:
            filters = trainer.accelerator.unwrap_model(trainer.model).config.num_filters
            peer = statistics.median(peer_steps(crops[0]["input_values"], filters, args.rounds))
            cells = [f"{peer:.3f}", f"{peer / median:.2f}"]
        print(
            f"| {batch_size} x {recipe.crop_seconds:g} s | {median:.3f} | {statistics.median(loads):.4f} | {memory:.1f} | "
            f"{' | '.join(cells)} |",
            flush=True,
        )
    if args.profile:
        print(f"\n{profile_step(trainer, to_device(crops[0], trainer.accelerator.device))}")


if __name__ == "__main__":
    main()
