"""
What each stage of the paper costs a training step, on a recipe with cached teacher features.

    python training/time_stages.py --recipe training/recipes/codec/affectcodec-mini-teachers.yaml --data-root data

Every variant is a network of its own on the same batches; their steps alternate, so that whatever else the machine does
falls on all. With and without discriminators, which cost far more than any stage. Nothing is saved.
"""

import argparse
import copy
import statistics
import time
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState
from codec_steps import train_step
from recipe import load_recipe
from tqdm.auto import tqdm
from train_codec import build_crops, build_trainer, start_codebooks


# Name in the table -> the weights that stay above 0; guidance is in the network of the first and the last.
STAGES = {
    "no stage": (),
    "EG-Latent with self-guidance": ("self_guidance",),
    "RP-Distill": ("relational",),
    "EW-Align": ("alignment",),
    "all three": ("self_guidance", "relational", "alignment"),
}


def variant(recipe, kept: tuple[str, ...], with_discriminators: bool):
    """The recipe with only these stages, with adversarial terms from the first step or never."""
    recipe = copy.deepcopy(recipe)
    for name in ("self_guidance", "relational", "alignment"):
        if name not in kept:
            setattr(recipe.loss_weights, name, 0.0)
    if "self_guidance" not in kept:
        recipe.model = recipe.model | {"guidance_sources": [], "self_guidance": False}
    recipe.discriminator_start, recipe.kmeans_steps, recipe.warmup_steps = 0, (), 0
    if not with_discriminators:
        recipe.discriminator = recipe.initial_discriminator = None
    recipe.initial_model = None
    return recipe


def measure(recipe, rounds: int, with_discriminators: bool, folder: Path) -> dict[str, list[float]]:
    """Seconds of each step by stage; the first round warms up and is not kept."""
    trainers, crops = {}, None
    for name, kept in STAGES.items():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        trainers[name] = build_trainer(variant(recipe, kept, with_discriminators), [], folder)
        if crops is None:
            config = trainers[name].model.config
            crops = build_crops(recipe, config, trainers[name].accelerator)
        start_codebooks(trainers[name], crops)
    seconds = {name: [] for name in STAGES}
    for step in tqdm(range(rounds + 1), desc="with discriminators" if with_discriminators else "without"):
        for name, trainer in trainers.items():
            begin = time.perf_counter()
            batch = crops[step]
            if "self_guidance" in STAGES[name]:
                # Teacher-guided and self-guided steps in turn; which it is decides a draw of the step otherwise.
                trainer.recipe.self_guided_share = float(step % 2)
            train_step(trainer, batch)
            if step:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    recipe = load_recipe(args.recipe, args.data_root, [*args.set, "kmeans_batches=2"])
    if recipe.teachers is None:
        raise SystemExit(f"--recipe {args.recipe} has no `teachers`")
    if not all((recipe.loss_weights.relational, recipe.loss_weights.alignment, recipe.loss_weights.self_guidance)):
        raise SystemExit(f"--recipe {args.recipe} must have all three stages (`loss_weights` above 0)")
    print(f"batch {recipe.batch_size} x {recipe.crop_seconds:g} s, median of {args.rounds} steps\n")
    print("| stage | s a step | x no stage | s with discriminators | x no stage |\n|---|---|---|---|---|")
    medians = []
    for with_discriminators in (False, True):
        seconds = measure(recipe, args.rounds, with_discriminators, Path("."))
        medians.append({name: statistics.median(values) for name, values in seconds.items()})
    for name in STAGES:
        cells = [f"{median[name]:.3f} | {median[name] / median['no stage']:.2f}" for median in medians]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
