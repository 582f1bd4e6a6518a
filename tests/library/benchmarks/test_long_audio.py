"""The command on a few seconds: recordings are the clips in their order, lengths are exact, borders are counted rightly."""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from hf_affectcodec.benchmarks import long_audio


sys.path.append(str(Path(__file__).parents[2] / "modeling"))

from tiny import tiny_model  # noqa: E402


@pytest.fixture
def data(tmp_path):
    """Two files of one clip and two, whose samples are all alike and tell which clip they are of."""
    clips = [np.full(4000, level) for level in (0.125, 0.25)] + [np.full(2000, 0.5)]
    paths = []
    for number, part in enumerate((clips[:1], clips[1:])):
        rows = []
        for clip in part:
            file = io.BytesIO()
            soundfile.write(file, clip, 16000, format="WAV")
            rows.append({"bytes": file.getvalue(), "path": "clip.wav"})
        paths.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.table({"audio": rows}), paths[-1])
    return paths


def test_recordings_repeat_the_clips_in_order(data):
    waveform = long_audio.recording(data, 0.7, 16000)
    assert waveform.shape == (1, 1, 11200)
    expected = torch.cat([torch.full((n,), v) for n, v in ((4000, 0.125), (4000, 0.25), (2000, 0.5), (1200, 0.125))])
    torch.testing.assert_close(waveform[0, 0], expected)
    with pytest.raises(ValueError, match="seconds"):
        long_audio.recording(data, 0.0, 16000)


def test_rows_of_lengths():
    model = tiny_model("istft", guidance_sources=())
    rows = list(long_audio.measure(model, 0.3 * torch.randn(1, 1, 16000 * 6), [0.05, 0.1]))
    assert [(row["samples"], row["exact"]) for row in rows] == [(48000, True), (96000, True)]
    assert all(row["encode"] > 0 and row["decode"] > 0 for row in rows) and rows[0]["memory"] <= rows[1]["memory"]


def test_borders_are_counted(monkeypatch):
    """With a planted number of changed codes at each border, that number comes out; without any the decoding is the whole's."""
    model = tiny_model("istft", guidance_sources=())
    clean = model.encode_long

    def planted(waveform, chunk_seconds, context_seconds):
        outputs = clean(waveform, chunk_seconds=chunk_seconds)
        if context_seconds == 0:
            for frame in (50, 100, 150):
                outputs.audio_codes[0, :3, frame] = (outputs.audio_codes[0, :3, frame] + 1) % 64
        return outputs

    monkeypatch.setattr(model, "encode_long", planted)
    rows = list(long_audio.borders(model, 0.3 * torch.randn(1, 1, 64000), 1.0, [0, 1]))
    assert [(row["first"], row["all"]) for row in rows] == [(1.0, 3.0), (0.0, 0.0)]
    assert rows[1]["lsd"] < 1e-4 < rows[0]["lsd"] and rows[1]["pesq"] == pytest.approx(4.64, abs=0.01)


def test_the_command(data, capsys):
    long_audio.main(["--data", *data, "--minutes", "0.1", "0.05", "--border-seconds", "0"])
    said = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in said[-2:]] == ["0.05", "0.1"] and said[-1].endswith("exact |")
