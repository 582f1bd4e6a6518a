"""The arithmetic of the table, on what `tokenize_corpus.py` prints; that it prints so is checked in its own tests."""

import subprocess
import sys

import pytest

from hf_affectcodec.benchmarks import tokenizing
from hf_affectcodec.benchmarks.tokenizing import duration, parse_rate, table


TWO = (
    "rank 0 of 2: 60 clips, 1 skipped, 0.060 h of audio in 2.0 s, 108 hours an hour\n"
    "rank 1 of 2: 40 clips, 0 skipped, 0.040 h of audio in 3.0 s, 48 hours an hour\nout: 100 clips, 0.10 h, 1 skipped\n"
)


def test_a_run_is_as_fast_as_its_slowest_process():
    hours, rate = parse_rate(TWO, 2)
    assert hours == pytest.approx(0.1) and rate == pytest.approx(3600 * 0.1 / 3.0)
    with pytest.raises(ValueError, match="1 of 2 processes said what they did"):
        parse_rate(TWO.splitlines()[0], 2)
    with pytest.raises(ValueError, match="2 of 3 processes"):
        parse_rate(TWO, 3)
    with pytest.raises(ValueError, match="too small"):
        parse_rate("rank 0 of 1: 0 clips, 0 skipped, 0.000 h of audio in 0.0 s, 0 hours an hour", 1)


def test_table():
    rows = [
        line.strip("| ").split(" | ") for line in table({1: [90, 110, 100], 2: [150, 210, 190]}, [2300]).splitlines()
    ]
    assert rows[0][-1] == "2,300 h take"
    assert rows[2] == ["1", "100 (90 to 110)", "1.00", "23.0 h"]
    assert rows[3] == ["2", "190 (150 to 210)", "1.90", "12.1 h"]
    assert [duration(hours) for hours in (0.5, 47.9, 48)] == ["30 min", "47.9 h", "2.0 days"]


def test_command(monkeypatch, capsys, tmp_path):
    (tmp_path / "script.py").write_text("")
    commands = []

    def run(command, **options):
        commands.append(command)
        assert options["env"]["OMP_NUM_THREADS"] == "1"
        text = TWO if "--nproc_per_node" in command else TWO.splitlines()[0].replace("of 2", "of 1")
        return subprocess.CompletedProcess(command, 0, text, "")

    monkeypatch.setattr(tokenizing.subprocess, "run", run)
    options = ["--source", "x.parquet", "--rounds", "2", "--script", str(tmp_path / "script.py")]
    tokenizing.main(options)
    assert [command[1] for command in commands] == [str(tmp_path / "script.py"), "-m"] * 2  # in turns
    assert all(command[0] == sys.executable and "--shard-clips" in command for command in commands)
    assert len({command[-1] for command in commands}) == 4  # a folder each
    said = capsys.readouterr().out
    assert "| 1 | 108 (108 to 108) | 1.00 | 21.3 h |" in said and "| 2 | 120 (120 to 120) | 1.11 | 19.2 h |" in said
    monkeypatch.setattr(
        tokenizing.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", "a\nno such model\n"),
    )
    with pytest.raises(ValueError, match="script.py: no such model$"):
        tokenizing.main(options)
    with pytest.raises(ValueError, match="`--script` .* is no file"):
        tokenizing.main([*options[:-1], "nothing.py"])
