"""Run by torchrun in `test_two_ranks.py`: codebook statistics over ranks, checked on every rank."""

import sys

import torch
import torch.distributed as dist
from tiny import tiny_config

from hf_affectcodec.modeling.quantization_affectcodec import AffectCodecResidualVectorQuantizer


def main(out: str):
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    assert world == 2, f"this must run on two ranks, not {world}"
    torch.manual_seed(0)
    quantizer = AffectCodecResidualVectorQuantizer(tiny_config("istft", hidden_size=16, dead_code_ratio=0.5)).train()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        batch = torch.randn(8, 25, 16, generator=generator)
        mask = torch.ones(8, 25, dtype=torch.bool)
        # Items of different lengths, so that the ranks hold different numbers of frames.
        mask[1, 10:] = False
        mine = slice(4 * rank, 4 * rank + 4)
        quantizer(batch[mine], mask[mine])
    torch.save(quantizer.state_dict(), f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
