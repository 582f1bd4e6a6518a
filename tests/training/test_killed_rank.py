"""A node dies in the middle of an epoch: after a restart the run ends where an unbroken one does."""

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from test_train_codec import ROOT, SMOKE, assert_same, voiced, weights
from test_two_ranks import HERE


def write_speech(folder, shards: int, clips: int):
    for shard in range(shards):
        rows = []
        for clip in range(clips):
            buffer, index = io.BytesIO(), shard * clips + clip
            soundfile.write(buffer, voiced(1.3 + 0.2 * clip, 90 + 20 * index, index), 16000, format="FLAC")
            rows.append({"bytes": buffer.getvalue(), "path": f"{index}.flac"})
        pq.write_table(pa.table({"audio": pa.array(rows)}), folder / f"train-{shard}.parquet")


def launch(output_dirs, data, *arguments):
    recipe = {"streaming": "true", "stream_buffer_size": 5, "steps": 9, "checkpoint_every": 3, "log_every": 3}
    # k-means of step 5 is behind the checkpoint of step 3: the resumed run makes it again.
    recipe |= {
        "discriminator_start": 4,
        "batch_size": 2,
        "train": f"[{{source: {data}/*.parquet}}]",
        "validation": "[]",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", HERE / "killed_rank.py"]
    command += [":".join(map(str, output_dirs)), "--recipe", SMOKE, *arguments]
    for key, value in recipe.items():
        command += ["--set", f"{key}={value}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "training"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)


def test_a_killed_rank(tmp_path):
    data, unbroken, killed = tmp_path / "data", tmp_path / "unbroken", tmp_path / "killed"
    data.mkdir()
    # Three shards for two ranks: one each, and the clips of the third dealt out.
    write_speech(data, shards=3, clips=3)
    done = launch([unbroken, killed], data)
    assert (unbroken / "checkpoint-00000009").exists(), done.stderr[-3000:]
    assert done.returncode != 0 and "SIGKILL" in done.stderr, done.stderr[-3000:]
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-00000003"]
    for rank in (0, 1):
        state = json.loads((killed / f"checkpoint-00000003/stream_{rank}.json").read_text())
        (source,) = state["workers"][0]["sources"]
        assert state["rank"] == rank and 0 < source["given"] < 5, "the kill should fall into a block"

    done = launch([killed], data, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(weights(killed), weights(unbroken))
    for rank in (0, 1):
        first, second = (folder / f"checkpoint-00000009/stream_{rank}.json" for folder in (killed, unbroken))
        assert first.read_text() == second.read_text()
    rows = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 9]
