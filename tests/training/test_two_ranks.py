"""Codebooks on two ranks equal each other, and equal one process on the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from test_train_codec import ROOT, SMOKE, data_root, run, weights  # noqa: F401
from tiny import tiny_config

from hf_affectcodec.modeling.quantization_affectcodec import AffectCodecResidualVectorQuantizer


HERE = Path(__file__).resolve().parent


def launch_two(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "modeling"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_codebooks_of_two_ranks_equal_one(tmp_path):
    launch_two(HERE / "two_ranks.py", tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))

    torch.manual_seed(0)
    alone = AffectCodecResidualVectorQuantizer(tiny_config("istft", hidden_size=16, dead_code_ratio=0.5)).train()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        mask = torch.ones(8, 25, dtype=torch.bool)
        mask[1, 10:] = False
        alone(torch.randn(8, 25, 16, generator=generator), mask)
    for name, expected in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        if expected.is_floating_point():
            # Sums in another order: not bit for bit.
            torch.testing.assert_close(
                first[name], expected, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )


def test_training_on_two_ranks_equals_one_process_on_the_joined_batch(data_root, tmp_path):  # noqa: F811
    arguments = ["--recipe", SMOKE, "--data-root", data_root]
    # Each rank draws its own dropout and its own stretch for the discriminators; without them the runs must agree.
    for change in (
        # Last bits differ (sums in another order) and grow with the steps; a second k-means would make them whole entries.
        "steps=6",
        "kmeans_steps=[0]",
        "model.quantizer_dropout=0.0",
        "discriminator_crop_seconds=null",
        "discriminator_start=3",
    ):
        arguments += ["--set", change]
    launch_two(ROOT / "training/train_codec.py", *arguments, "--set", "batch_size=2", "--output-dir", tmp_path / "two")
    run(tmp_path / "one", data_root, *map(str, arguments[4:]), "--set", "batch_size=4", "--set", "kmeans_batches=4")
    # What the same run is without the other rank: the measure of what "equal" means. Adam makes whole steps of gradients
    # that are only rounding (the discriminators' first gradients are near it), so no bound on single weights would hold.
    run(tmp_path / "half", data_root, *map(str, arguments[4:]), "--set", "batch_size=2", "--set", "kmeans_batches=4")
    rows = {name: (tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")}
    assert len(rows["one"]) == len(rows["two"])
    one, two, half = (flat_weights(tmp_path / name) for name in ("one", "two", "half"))
    for network, expected in one.items():
        apart = float((two[network] - expected).norm() / (half[network] - expected).norm())
        assert apart < {"model": 1e-3, "discriminator": 0.25}[network], f"{network}: {apart}"


def flat_weights(folder):
    """Each network as one vector [N]."""
    return {
        network: torch.cat([tensor.double().flatten() for tensor in tensors.values() if tensor.is_floating_point()])
        for network, tensors in weights(folder).items()
    }
