"""
An hour of speech through `encode_long` and `decode_long`: time, memory, length, and what the borders of windows change.

    python -m hf_affectcodec.benchmarks.long_audio --data data/open-prompts/train-*.parquet --minutes 15 30 60

The clips of the files are put one behind the other, from the start again where they do not suffice. Memory is the largest of
the process so far, so lengths grow; the samples themselves take 3.8 MB a minute, once on their way in and once out.

`--lstm` takes the paper's network in place of `--model`, with random weights (the package `speechtokenizer` makes them): its
LSTMs look at the whole recording, so windows change what comes out. The second table says how much, by context; what is heard
of it is the distance between the whole and the windowed decoding of the same codes.
"""

import argparse
import time
from collections.abc import Iterator

import torch
from tqdm.auto import tqdm

from ..audio import load_audio
from ..convert_speechtokenizer import from_speechtokenizer
from ..metrics.lsd import lsd
from ..metrics.pesq import pesq
from ..modeling.modeling_affectcodec import AffectCodecModel
from ..shipped import pretrained_path
from .clips import read_clips
from .memory import peak_memory
from .speed import build_peer


def recording(paths: list[str], seconds: float, sampling_rate: int) -> torch.Tensor:
    """
    Waveform [1, 1, seconds * sampling_rate] of the clips of Parquet files, again from the first after the last.

    Raises:
        ValueError: A file has no clips.
    """
    waveform = torch.empty(round(seconds * sampling_rate))
    if not len(waveform):
        raise ValueError(f"`seconds` must be more than 0, got {seconds}")
    position = 0
    while True:
        before = position
        for path in paths:
            for clip in read_clips(path):
                samples = load_audio(clip.data, sampling_rate, name=clip.path)[0, : len(waveform) - position]
                waveform[position : position + len(samples)] = samples
                position += len(samples)
                if position == len(waveform):
                    return waveform[None, None]
        if position == before:
            raise ValueError(f"`paths`: no clips in {', '.join(paths)}")


def measure(model: AffectCodecModel, waveform: torch.Tensor, minutes: list[float]) -> Iterator[dict]:
    """
    Rows `{"minutes", "encode", "decode", "cpu", "memory", "samples", "exact"}`: seconds, seconds of all cores for both, GB, and
    whether the waveform [1, 1, T] of each of the growing lengths came back with whole frames, none more and none fewer.
    """
    for length in minutes:
        part = waveform[..., : round(length * 60 * model.config.sampling_rate)]
        start, cpu_start = time.perf_counter(), time.process_time()
        codes = model.encode_long(part).audio_codes
        middle = time.perf_counter()
        samples = model.decode_long(codes).audio_values.shape[-1]
        yield {
            "minutes": length,
            "encode": middle - start,
            "decode": time.perf_counter() - middle,
            "cpu": time.process_time() - cpu_start,
            "memory": peak_memory(),
            "samples": samples,
            "exact": samples == -(-part.shape[-1] // model.hop_length) * model.hop_length,
        }


@torch.no_grad()
def borders(
    model: AffectCodecModel, waveform: torch.Tensor, chunk_seconds: float, contexts: list[float]
) -> Iterator[dict]:
    """
    For each context in seconds `{"context", "first", "all", "lsd", "pesq"}`: codes of the first and of all codebooks that
    differ from those of the whole waveform [1, 1, T], a border; LSD in decades and PESQ-WB between the decoded samples.
    """
    rate, hop = model.config.sampling_rate, model.hop_length
    codes = model.encode(waveform).audio_codes
    whole = model.decode(codes).audio_values[0, 0].numpy()
    count = -(-codes.shape[-1] * hop // round(chunk_seconds * rate)) - 1
    if count < 1:
        raise ValueError(f"`waveform` must be longer than one chunk of {chunk_seconds} s")
    for context in contexts:
        different = (
            model.encode_long(waveform, chunk_seconds=chunk_seconds, context_seconds=context).audio_codes != codes
        )
        parts = model.decode_long(codes, chunk_seconds, context).audio_values[0, 0].numpy()
        yield {
            "context": context,
            "first": int(different[:, 0].sum()) / count,
            "all": int(different.sum()) / count,
            "lsd": lsd(whole, parts, rate),
            "pesq": pesq(whole, parts, rate),
        }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+", help="Parquet files with a column `audio`")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--model", help="folder or Hub id (default: the shipped checkpoint)")
    chosen.add_argument("--lstm", action="store_true", help="the paper's network, random weights")
    parser.add_argument("--minutes", type=float, nargs="+", default=[15, 30, 60])
    parser.add_argument("--border-seconds", type=float, default=60.0, help="length for the second table; 0: none")
    parser.add_argument("--border-chunk-seconds", type=float, default=5.0)
    parser.add_argument("--contexts", type=float, nargs="+", default=[0, 0.2, 0.5, 1, 2])
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.lstm:
        model = from_speechtokenizer(build_peer().state_dict(), num_filters=32, guidance_sources=()).eval()
    else:
        model = AffectCodecModel.from_pretrained(args.model or pretrained_path()).eval()
    seconds = max(60 * max(args.minutes), args.border_seconds)
    waveform = recording(args.data, seconds, model.config.sampling_rate)
    print(
        f"float32, {torch.get_num_threads()} threads; memory with the model and {seconds / 60:g} minutes of samples, "
        f"before anything ran: {peak_memory():.2f} GB\n"
    )
    print(
        "| minutes | encode, s | decode, s | x real time | core seconds a minute | of the first row | peak memory, GB | length |"
    )
    print("|---|---|---|---|---|---|---|---|")
    first = None
    for row in tqdm(measure(model, waveform, sorted(args.minutes)), total=len(args.minutes), desc="lengths"):
        both = row["encode"] + row["decode"]
        cpu = row["cpu"] / row["minutes"]
        first = first or cpu
        print(
            f"| {row['minutes']:g} | {row['encode']:.1f} | {row['decode']:.1f} | {60 * row['minutes'] / both:.0f} | "
            f"{cpu:.3f} | {cpu / first:.3f} | {row['memory']:.2f} | "
            f"{row['samples']} samples, {'exact' if row['exact'] else 'WRONG'} |",
            flush=True,
        )
    if not args.border_seconds:
        return
    waveform = waveform[..., : round(args.border_seconds * model.config.sampling_rate)]
    print(f"\nwindows of {args.border_chunk_seconds:g} s over {args.border_seconds:g} s, against the whole:\n")
    print(
        "| context, s | codes of the first codebook changed a border | of all | LSD, decades | PESQ-WB |\n|---|---|---|---|---|"
    )
    for row in borders(model, waveform, args.border_chunk_seconds, args.contexts):
        print(
            f"| {row['context']:g} | {row['first']:.2f} | {row['all']:.2f} | {row['lsd']:.4f} | {row['pesq']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
