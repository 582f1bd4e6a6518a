"""
Throughput of streamed crops against decoding whole files, on one core.

    python -m hf_affectcodec.benchmarks.streaming --clips 24 --seconds 60 --rounds 5

Clips of speech-like noise are written to Parquet as FLAC at 44.1 kHz and read back as crops of 3 s at 16 kHz, mono, in
several ways, in turns in this process. Counted are the seconds that this process computes, not those of the clock, so that a core
shared with others gives the numbers of a core of its own; waiting for a disk or a network is not in them.

- plain `datasets`: `load_dataset(..., streaming=True)` with its `Audio(sampling_rate=16_000)`, which decodes and resamples each
  file whole by torchcodec; one crop is taken of it. Left out, and said so, where that finds no FFmpeg;
- whole files: the same with [`load_audio`], which is soundfile and torchaudio, as the ways below: what the difference to those
  is, comes of what is decoded and not of with what;
- streamed: [`CropStream`], one crop of each clip (`crops_per_clip=1`), or all crops that a clip has.

The ratio is that of crops a second, to the first row.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm.auto import tqdm

from ..audio import load_audio
from ..data.crop_stream import CropStream
from ..data.streaming import open_stream


FILE_RATE, RATE = 44_100, 16_000


def write_clips(folder: Path, clips: int, seconds: float, shards: int = 4) -> None:
    """Parquet files of FLAC clips, at least one a shard: noise under a slow loudness wave, which FLAC packs as it does speech."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random, time_axis = np.random.default_rng(0), np.arange(round(seconds * FILE_RATE)) / FILE_RATE
    for shard in range(shards):
        rows = []
        for clip in range(shard, max(clips, shards), shards):
            loudness = 0.05 * (1 + np.sin(2 * np.pi * 3 * time_axis + clip)) / 2
            buffer = io.BytesIO()
            soundfile.write(buffer, loudness * random.standard_normal(len(time_axis)), FILE_RATE, format="FLAC")
            rows.append({"bytes": buffer.getvalue(), "path": f"{clip}.flac"})
        audio = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        pq.write_table(pa.table({"audio": audio}), folder / f"train-{shard:05d}.parquet", row_group_size=4)


def torchcodec_works() -> bool:
    """It finds its libraries only when something is decoded."""
    clip = io.BytesIO()
    soundfile.write(clip, np.zeros(1600), RATE, format="WAV")
    try:
        from torchcodec.decoders import AudioDecoder

        AudioDecoder(clip.getvalue()).get_all_samples()
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def datasets_crops(source: str, crop_samples: int) -> int:
    """One crop of each clip, as `datasets` decodes it; returns their number."""
    import datasets

    random, count = np.random.default_rng(0), 0
    rows = datasets.load_dataset("parquet", data_files=source, split="train", streaming=True)
    for row in rows.cast_column("audio", datasets.Audio(sampling_rate=RATE, num_channels=1)):
        waveform = row["audio"].get_all_samples().data[0]
        start = int(random.integers(max(len(waveform) - crop_samples, 0) + 1))
        count += len(waveform[start : start + crop_samples].clone()) > 0
    return count


def plain_crops(source: str, crop_samples: int) -> int:
    """One crop of each clip, by way of the whole clip; returns their number."""
    random, count = np.random.default_rng(0), 0
    for row in open_stream(source):
        waveform = load_audio(row["audio"]["bytes"], RATE)[0]
        start = int(random.integers(max(len(waveform) - crop_samples, 0) + 1))
        count += len(waveform[start : start + crop_samples].clone()) > 0
    return count


def streamed_crops(source: str, crop_samples: int, crops_per_clip: int | None) -> int:
    stream = CropStream(open_stream(source), crop_samples, sampling_rate=RATE, epochs=1, crops_per_clip=crops_per_clip)
    return sum(1 for _ in stream)


def measure(source: str, crop_seconds: float, rounds: int) -> list[dict]:
    """Rows `{"way", "crops", "seconds", "crops_per_second", "real_time", "ratio"}`, medians over rounds."""
    crop_samples = round(crop_seconds * RATE)
    functions = {"plain `datasets`, one crop each": lambda: datasets_crops(source, crop_samples)}
    if not torchcodec_works():
        functions = {}
    functions |= {
        "whole files, one crop each": lambda: plain_crops(source, crop_samples),
        "streamed, one crop each": lambda: streamed_crops(source, crop_samples, 1),
        "streamed, all crops": lambda: streamed_crops(source, crop_samples, None),
    }
    counts = {name: function() for name, function in functions.items()}
    seconds = {name: [] for name in functions}
    for _ in tqdm(range(rounds), desc="rounds"):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(functions))
    base = counts[first] / medians[first]
    return [
        {
            "way": name,
            "crops": counts[name],
            "seconds": medians[name],
            "crops_per_second": counts[name] / medians[name],
            "real_time": counts[name] * crop_seconds / medians[name],
            "ratio": counts[name] / medians[name] / base,
        }
        for name in functions
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=None, help="Parquet files to read instead of clips made here")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each clip")
    parser.add_argument("--crop-seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.source is None:
            write_clips(Path(folder), args.clips, args.seconds)
        rows = measure(args.source or f"{folder}/*.parquet", args.crop_seconds, args.rounds)
    clips = args.source or f"{args.clips} clips of {args.seconds:g} s, FLAC {FILE_RATE} Hz"
    print(f"{clips}; crops of {args.crop_seconds:g} s at {RATE} Hz; one thread, medians of {args.rounds}")
    print("" if torchcodec_works() else "plain `datasets` is left out: torchcodec does not work")
    print("| way | crops | CPU seconds | crops a second | x real time | x first row |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['way']} | {row['crops']} | {row['seconds']:.2f} | {row['crops_per_second']:.1f} "
            f"| {row['real_time']:.0f} | {row['ratio']:.1f} |"
        )


if __name__ == "__main__":
    main()
