"""
How many hours of audio an hour token fusion classifies from waveforms: tokens, openSMILE features and classifier.

    python -m hf_affectcodec.benchmarks.classifying --model runs/token-fusion/all/model \\
        --source data/open-prompts/test-00000-of-00001.parquet --split test --processes 1 2 --rounds 3

Clips are decoded beforehand and classified one by one, as `pipeline("audio-classification")` does; n processes of one thread each
take every n-th clip. A run's rate is the hours of all of them over the seconds of the slowest; loading the model and the first
clip, which warms up, are not in it. Needs cores that nobody else uses.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time

import numpy as np
import torch
from tqdm.auto import tqdm

from ..classify import load_classifier
from ..data.clips import load_clips
from ..modeling.modeling_token_fusion import TokenFusionForAudioClassification


PARTS = ("openSMILE", "tokens", "classifier")


@torch.inference_mode()
def time_parts(model, extractor, waveforms: list[np.ndarray]) -> dict[str, float]:
    """
    Args:
        model ([`TokenFusionForAudioClassification`]): In evaluation mode.
        extractor ([`TokenFusionFeatureExtractor`]): Its own.
        waveforms (`list[np.ndarray]`): `[T]` each, float32 at `extractor.sampling_rate`.

    Returns:
        `dict[str, float]`: Seconds of each of [`PARTS`] for all waveforms, each classified alone.
    """
    seconds = dict.fromkeys(PARTS, 0.0)
    for waveform in waveforms:
        times = [time.perf_counter()]
        given = {}
        if extractor.opensmile_feature_set is not None:
            features = extractor.opensmile_features(waveform)
            given["opensmile_features"] = torch.from_numpy(np.array(features))[None].to(model.device)
        times.append(time.perf_counter())
        inputs = extractor.pad_waveforms(waveform, extractor.sampling_rate).convert_to_tensors("pt").to(model.device)
        tokens, mask = model.tokenize(**inputs)
        times.append(time.perf_counter())
        name = "input_ids" if model.config.quantized else "input_features"
        model(**{name: tokens}, attention_mask=mask, **given).logits.argmax(-1).item()
        times.append(time.perf_counter())
        for part, start, end in zip(PARTS, times, times[1:], strict=False):
            seconds[part] += end - start
    return seconds


def run_process(model: str, waveforms: list[np.ndarray]) -> dict[str, float]:
    """One process of a run: [`time_parts`] with one thread, after a first clip."""
    torch.set_num_threads(1)
    classifier = load_classifier(model, "cpu")
    if not isinstance(classifier.model, TokenFusionForAudioClassification):
        raise ValueError(f"`--model` must be token fusion, got {type(classifier.model).__name__}")
    time_parts(classifier.model, classifier.feature_extractor, waveforms[:1])
    return time_parts(classifier.model, classifier.feature_extractor, waveforms)


def run_once(model: str, waveforms: list[np.ndarray], processes: int) -> list[dict[str, float]]:
    """What each process of a run took; all start together."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        jobs = [(model, waveforms[rank::processes]) for rank in range(processes)]
        return pool.starmap(run_process, jobs, chunksize=1)


def table(runs: dict[int, list[list[dict[str, float]]]], hours: float) -> str:
    """
    Markdown: hours of audio an hour by the number of processes.

    Args:
        runs (`dict`): For each number of processes, of each round, what [`run_once`] returns.
        hours (`float`): Hours of audio of a run.
    """
    lines = [
        "| processes | hours an hour, median (range) | "
        + " | ".join(f"{part}, share of time" for part in PARTS)
        + " |",
        "|" + "---|" * (2 + len(PARTS)),
    ]
    for processes, rounds in runs.items():
        rates = [3600 * hours / max(sum(seconds.values()) for seconds in run) for run in rounds]
        totals = {part: sum(seconds[part] for run in rounds for seconds in run) for part in PARTS}
        shares = [f"{totals[part] / sum(totals.values()):.0%}" for part in PARTS]
        rate = f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
        lines.append(f"| {processes} | {rate} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id or folder")
    parser.add_argument("--source", required=True, help="Hub id, folder or Parquet files with a column `audio`")
    parser.add_argument("--split", default="train")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    clips = load_clips(args.source, args.split)
    waveforms = [waveform.astype(np.float32) / 32768 for waveform in clips.waveforms]
    if len(waveforms) < max(args.processes):
        raise ValueError(f"`--source` has {len(waveforms)} clips for {max(args.processes)} processes")
    runs = {processes: [] for processes in args.processes}
    for _ in tqdm(range(args.rounds), desc="rounds"):
        for processes, rounds in runs.items():
            rounds.append(run_once(args.model, waveforms, processes))
    print(
        f"{args.source}, {len(clips)} clips, {clips.seconds / 3600:.2f} h, {args.model}; {os.cpu_count()} cores, "
        f"one thread a process, {args.rounds} rounds\n"
    )
    print(table(runs, clips.seconds / 3600))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"classifying: error: {' '.join(str(error).split())}")
