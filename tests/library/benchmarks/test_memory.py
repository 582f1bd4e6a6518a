import subprocess
import sys

import numpy as np

from hf_affectcodec.benchmarks.memory import peak_memory


ARRAY = """
import numpy as np
from hf_affectcodec.benchmarks.memory import peak_memory
before = peak_memory()
np.ones(int(1e9 * before + 3e8) // 8)
print(before, peak_memory())
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def test_an_array_that_is_gone_is_in_the_peak():
    before, after = run(ARRAY)
    assert before + 0.25 < after < 2 * before + 0.4


def test_a_process_started_by_a_large_one_has_its_own_peak():
    held = np.ones(200_000_000)
    (peak,) = run("from hf_affectcodec.benchmarks.memory import peak_memory; print(peak_memory())")
    assert held.nbytes / 1e9 < peak_memory()
    assert 0 < peak < peak_memory() - 0.5


def test_without_the_line_of_linux(monkeypatch):
    expected = peak_memory()
    monkeypatch.setattr("hf_affectcodec.benchmarks.memory.Path.read_text", lambda self: "Name: python\n")
    assert 0.5 * expected < peak_memory()
