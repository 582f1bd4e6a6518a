"""Codebooks on two ranks equal each other, and equal one process on the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from tiny import tiny_config

from hf_affectcodec.modeling.quantization_affectcodec import AffectCodecResidualVectorQuantizer


HERE = Path(__file__).resolve().parent


def test_two_ranks_equal_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(HERE / "two_ranks.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "modeling"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
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
