"""The speed table at a small size: every system in every state, equal codes, ratios that fit, and work counted by hand."""

import pytest
import torch

from hf_affectcodec.benchmarks import speed


def test_work_is_that_of_the_products():
    convolution, product = torch.nn.Conv1d(3, 5, 7), torch.nn.Linear(11, 13)
    inputs, rows = torch.randn(2, 3, 106), torch.randn(17, 11)
    expected = 2 * (2 * 100 * 3 * 5 * 7 + 17 * 11 * 13) / 1e9
    assert speed.count_flop(lambda: (convolution(inputs), product(rows))) == pytest.approx(expected)


def test_rows(monkeypatch):
    build = speed.build_peer
    seen = []
    monkeypatch.setattr(speed, "build_peer", lambda filters: seen.append(filters) or build(filters))
    rows = speed.measure(0.5, 1, batch_size=2, num_filters=4, bf16=True)
    assert seen == [4] and all(row["codes_equal_to_peer"] == 1.0 and row["distinct_codes"] > 50 for row in rows)
    systems = {
        state: {row["system"] for row in rows if row["state"] == state} for state in (speed.FRESH, speed.AFTER_POW)
    }
    assert systems[speed.FRESH] == {speed.PEER, speed.SEANET, f"{speed.SEANET}, bf16"}
    assert systems[speed.AFTER_POW] == systems[speed.FRESH] | {speed.SHIPPED, f"{speed.SHIPPED}, bf16"}
    times = {(row["state"], row["system"], row["part"]): row["seconds"] for row in rows}
    assert len(times) == len(rows) == 2 * (3 + 5)
    for row in rows:
        assert row["ratio"] == pytest.approx(times[row["state"], speed.PEER, row["part"]] / row["seconds"])
        assert row["real_time"] == pytest.approx(2 * 0.5 / row["seconds"]) and row["gflop"] > 0


def test_the_command(monkeypatch, capsys):
    calls = []

    def measure(seconds, rounds, batch_size, num_filters, bf16, states):
        calls.append((seconds, batch_size, num_filters, states))
        row = {"state": states[-1], "system": "x", "part": "encode", "seconds": 0.5, "ratio": 2.0, "gflop": 50.0}
        return [row | {"real_time": 20.0, "codes_equal_to_peer": 1.0, "distinct_codes": 9}]

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "gemm_peaks", lambda: {"oneDNN": 400.0})
    threads = torch.get_num_threads()
    speed.main(["--seconds", "1", "10", "--num-filters", "32", "64", "--threads", str(threads)])
    # Only the first rows can be those of a fresh process.
    both, later = (speed.FRESH, speed.AFTER_POW), (speed.AFTER_POW,)
    assert calls == [(1, 1, 32, both), (10, 1, 32, later), (1, 1, 64, later), (10, 1, 64, later)]
    said = capsys.readouterr().out
    # 0.5 s at 50 GFLOP, 20 times real time.
    assert f"| x | encode | 0.500 | 20.0 | 2.00 | 100 | {1000 * threads / 20:.1f} |" in said and "oneDNN 400" in said
