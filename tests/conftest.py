"""Random numbers and Accelerate begin anew with every test: what ran before in its process depends on how tests are dealt out."""

import random
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState


ROOT = Path(__file__).resolve().parent.parent
# Scripts in training/ import each other by bare name, as `accelerate launch` runs them.
for folder in ("training", "tests/modeling"):
    sys.path.insert(0, str(ROOT / folder))


def seed_by(name: str) -> None:
    """Random numbers that depend on a name alone. Not one seed for all: what fixture and test draw would be the same."""
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # An `Accelerator` refuses other settings than those of the first one in the process.
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    seed_by(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    seed_by(item.nodeid)
