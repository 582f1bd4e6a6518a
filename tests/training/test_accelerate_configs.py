import os
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
from accelerate.utils import DistributedType


FOLDER = Path(__file__).resolve().parents[2] / "training" / "accelerate"
# file -> machines, processes in all, kind, on the CPU
EXPECTED = {
    "cpu.yaml": (1, 1, DistributedType.NO, True),
    "one_gpu.yaml": (1, 1, DistributedType.NO, False),
    "four_gpus.yaml": (1, 4, DistributedType.MULTI_GPU, False),
    "four_nodes.yaml": (4, 16, DistributedType.MULTI_GPU, False),
}


def test_every_file_is_known():
    assert {path.name for path in FOLDER.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_it(name):
    """accelerate refuses keys that it does not know."""
    config = load_config_from_file(str(FOLDER / name))
    assert (config.num_machines, config.num_processes, config.distributed_type, config.use_cpu) == EXPECTED[name]
    assert config.num_processes % config.num_machines == 0
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("name, rank", [("four_gpus.yaml", 0), ("four_nodes.yaml", 3)])
def test_what_the_launcher_makes_of_it(name, rank, monkeypatch):
    """The command's own resolution of file and options, as far as it goes without GPUs."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    words = ["--config_file", str(FOLDER / name), "--machine_rank", str(rank), "--main_process_ip", "10.0.0.1", "x.py"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert args.multi_gpu and not args.cpu and defaults.num_processes == args.num_processes
    assert (args.num_machines, args.num_processes) == EXPECTED[name][:2]
    assert args.machine_rank == rank and args.main_process_ip == "10.0.0.1"
    assert args.mixed_precision == "no"


def test_a_process_starts_on_the_cpu(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    script = tmp_path / "state.py"
    script.write_text("import os\nprint(os.environ['ACCELERATE_USE_CPU'], os.environ['ACCELERATE_MIXED_PRECISION'])\n")
    launch_command(launch_command_parser().parse_args(["--config_file", str(FOLDER / "cpu.yaml"), str(script)]))
    assert capfd.readouterr().out.split() == ["True", "no"]
