"""
Run by torchrun in `test_killed_rank.py`: `train_codec.py` on two ranks, once for each output folder; in the one named
`killed`, unless it is resumed, rank 1 dies of SIGKILL before a step.
"""

import os
import signal
import sys

import torch.distributed as dist
import train_codec
from accelerate.state import AcceleratorState, GradientState, PartialState


DYING_STEP = 5


def main(output_dirs: list[str], arguments: list[str]):
    clean_step = train_codec.train_step
    dying = False

    def step(trainer, batch):
        world_size, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        assert world_size == 2, f"this must run on two ranks, not {world_size}"
        if dying and (rank, trainer.progress.step) == (1, DYING_STEP):
            os.kill(os.getpid(), signal.SIGKILL)
        return clean_step(trainer, batch)

    train_codec.train_step = step
    # One process group for all runs: a second one on the same store meets what is left of the first.
    dist.init_process_group("gloo")
    train_codec.Accelerator.end_training = lambda self: dist.barrier()
    for output_dir in output_dirs:
        dying = output_dir.endswith("killed") and "--resume" not in arguments
        train_codec.main([*arguments, "--output-dir", output_dir])
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1].split(":"), sys.argv[2:])
