"""The table of training speed on the smoke recipe, and the peer's own trainer at a small size."""

import time

import pytest
import torch
import training_speed
from test_train_codec import SMOKE, data_root  # noqa: F401


def test_intervals_are_those_of_the_consumer():
    batches = training_speed.TimedBatches("batch", 2)
    for step, batch in enumerate(batches):
        assert batch == "batch"
        time.sleep((0.2, 0.01, 0.05)[step])
    assert batches.seconds == [pytest.approx(0.01, abs=0.03), pytest.approx(0.05, abs=0.03)]


def test_the_command(data_root, capsys, monkeypatch):  # noqa: F811
    given = []

    def peer_steps(waveforms, num_filters, rounds):
        given.append((tuple(waveforms.shape), num_filters, rounds))
        return [1000.0] * rounds

    monkeypatch.setattr(training_speed, "peer_steps", peer_steps)
    options = ["--recipe", str(SMOKE), "--data-root", str(data_root), "--rounds", "1", "--set", "crop_seconds=0.5"]
    training_speed.main([*options, "--batch-sizes", "3", "2", "--profile"])
    said = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said[2:4]]
    assert [row[0] for row in rows] == ["2 x 0.5 s", "3 x 0.5 s"]
    assert [shape for shape, _, _ in given] == [(2, 1, 8000), (3, 1, 8000)]
    for row in rows:
        step, load, memory, peer, ratio = (float(cell) for cell in row[1:])
        assert 0 <= load < step and memory > 0.1 and peer == 1000
        assert ratio == pytest.approx(1000 / step, rel=0.05)
    assert any("aten::" in line for line in said)


@pytest.mark.slow
def test_the_peers_own_step():
    seconds = training_speed.peer_steps(torch.randn(2, 1, 8000) * 0.1, 4, 2)
    assert len(seconds) == 2 and min(seconds) > 0
