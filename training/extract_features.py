"""
Computes the teachers' features of a data set once, so that training only reads them.

    accelerate launch training/extract_features.py --source data/open-prompts --split train \\
        --teacher emotion=egemaps --teacher semantic=whisper,source=openai/whisper-base \\
        --teacher text=text,source=google-bert/bert-base-uncased --transcripts text --output-dir features/open-prompts

`--teacher NAME=KIND[,key=value ...]` may be given several times. NAME becomes the column; KIND and its keys (those of the
class's `from_pretrained`, or of the class where there is nothing to load):

    clap        source, revision                              (laion/clap-htsat-unfused)
    hubert      source, layer, revision                       (facebook/hubert-base-ls960)
    whisper     source, layer, revision                       (openai/whisper-base)
    text        source, recognizer, revision, recognizer_revision
                (google-bert/bert-base-uncased on transcripts of facebook/wav2vec2-base-960h, or of --transcripts COLUMN)
    frames      source, frame_rate, layer, window_seconds, revision, trust_remote_code   (any encoder of the Hub)
    egemaps     -
    mfcc        num_coefficients, num_mel_bins

The result is a data set, `load_dataset("parquet", data_files="OUTPUT/*.parquet")`: one row a clip with `name`, `num_samples`
(at 16 kHz), for each teacher a list of vectors of float16, and for a text teacher `NAME_transcript`. `manifest.json`, written
last, holds what produced it: teachers with the SHA-256 of their weights, versions of the libraries, SHA-256 of the audio of
each file, mean and standard deviation of each channel. `hf_affectcodec.data.features` reads it.

A file appears whole or not at all. Run the command again and it goes on with the files that are missing; on several ranks
each takes every n-th file, and whoever finishes the last one writes the manifest: ranks need not wait for each other. On
machines without accelerator launch several with `torchrun --nproc_per_node N`.
"""

import argparse
import hashlib
import inspect
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import yaml
from sharded_output import (
    AudioRows,
    library_versions,
    plan_files,
    process_state,
    read_footer,
    sha256_of_names,
    write_file,
    write_manifest,
)
from tqdm.auto import tqdm

from hf_affectcodec.teachers.alignment import HOP_LENGTH, SAMPLING_RATE
from hf_affectcodec.teachers.clap import ClapTeacher
from hf_affectcodec.teachers.frames import FrameTeacher
from hf_affectcodec.teachers.hubert import HubertTeacher
from hf_affectcodec.teachers.mfcc import MfccTeacher
from hf_affectcodec.teachers.text import TextTeacher
from hf_affectcodec.teachers.whisper import WhisperTeacher


LARGEST = float(np.finfo(np.float16).max)


def load_egemaps():
    from hf_affectcodec.teachers.egemaps import EgemapsTeacher  # its package is an extra

    return EgemapsTeacher()


ENCODERS = {
    "clap": ClapTeacher.from_pretrained,
    "hubert": HubertTeacher.from_pretrained,
    "whisper": WhisperTeacher.from_pretrained,
    "text": TextTeacher.from_pretrained,
    "frames": FrameTeacher.from_pretrained,
}
SIGNAL_TEACHERS = {"egemaps": load_egemaps, "mfcc": MfccTeacher}


def load_teacher(kind: str, device: "str | torch.device" = "cpu", **arguments):
    """
    A teacher by its kind on the command line.

    Raises:
        ValueError: The kind is unknown, or it does not take an argument.
    """
    kinds = ENCODERS | SIGNAL_TEACHERS
    if kind not in kinds:
        raise ValueError(f"`--teacher`: there is no {kind!r}; kinds are {', '.join(kinds)}")
    if kind in ENCODERS:
        arguments["device"] = device
    try:
        inspect.signature(kinds[kind]).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"`--teacher`: {kind}: {error}") from error
    return kinds[kind](**arguments)


def parse_teacher(text: str) -> tuple[str, str, dict]:
    """`"semantic=whisper,source=openai/whisper-base,layer=4"` to (name, kind, keyword arguments)."""
    name, equals, rest = text.partition("=")
    kind, *pairs = rest.split(",")
    if not (equals and name.isidentifier() and kind and all("=" in pair for pair in pairs)):
        raise ValueError(f"`--teacher` takes NAME=KIND[,key=value ...], got {text!r}")
    return name, kind, {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}


def extract(
    rows: AudioRows,
    teachers: dict,
    output_dir: "str | os.PathLike",
    settings: dict,
    shard_clips: int = 256,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> dict | None:
    """
    Writes this rank's missing files of features, and the manifest if all ranks' are there.

    Args:
        rows ([`AudioRows`]): The data set.
        teachers (`dict`): Column to teacher.
        output_dir (`str` or `os.PathLike`): Folder to write to.
        settings (`dict`): What else the result depends on (source, split, columns), fit for JSON.
        shard_clips (`int`, *optional*, defaults to 256): Clips a file.
        rank, world_size (`int`): This process and how many there are.
        progress (`bool`, *optional*, defaults to `True`): Shows a bar.

    Returns:
        `dict` or `None`: The manifest, or `None` while files of other ranks are missing.

    Raises:
        ValueError: The folder holds features of other settings, a value does not fit into float16, or there are no rows.
    """
    output_dir = Path(output_dir)
    settings = {
        **settings,
        "clips": len(rows),
        "names_sha256": sha256_of_names(rows.names),
        "shard_clips": shard_clips,
        "sampling_rate": SAMPLING_RATE,
        "hop_length": HOP_LENGTH,
        "teachers": {name: {"kind": _kind(teacher), **teacher.description} for name, teacher in teachers.items()},
    }
    settings = json.loads(json.dumps(settings))  # as it reads back: tuples are lists
    paths = plan_files(output_dir, "features", settings, len(rows), shard_clips)

    mine = range(rank, len(paths), world_size)
    todo = [index for index in mine if not paths[index].exists()]
    sizes = {index: min((index + 1) * shard_clips, len(rows)) - index * shard_clips for index in mine}
    with tqdm(
        total=sum(sizes.values()),
        initial=sum(sizes[index] for index in mine if index not in todo),
        desc=f"features (rank {rank} of {world_size})",
        unit="clip",
        disable=not progress,
    ) as bar:
        for index in todo:
            first = index * shard_clips
            clips = rows.read(first, first + sizes[index], SAMPLING_RATE)
            _write_shard(paths[index], clips, teachers, settings, bar)
    if not all(path.exists() for path in paths):
        return None
    manifest = _manifest(paths, settings)
    write_manifest(output_dir, manifest)
    return manifest


def _kind(teacher) -> str:
    return "tokens" if isinstance(teacher, TextTeacher) else "frames"


def _write_shard(path: Path, clips, teachers: dict, settings: dict, bar):
    names, lengths, digest = [], [], hashlib.sha256()
    vectors = {column: [] for column in teachers}
    transcripts = {column: [] for column, teacher in teachers.items() if _kind(teacher) == "tokens"}
    for name, waveform, row in clips:
        names.append(name)
        lengths.append(len(waveform))
        digest.update(waveform.numpy().astype("<f4").data)
        for column, teacher in teachers.items():
            if column in transcripts:
                given = settings["transcripts"]
                text = (row[given] or "") if given else teacher.transcribe([waveform])[0]
                transcripts[column].append(text)
                values = teacher.embed(text)
            else:
                values = teacher([waveform])[0]
            vectors[column].append(_float16(values, f"{column!r} of {name!r}"))
        bar.update()
    columns = {"name": pa.array(names, pa.string()), "num_samples": pa.array(lengths, pa.int64())}
    columns |= {column: _list_array(items, teachers[column].feature_size) for column, items in vectors.items()}
    columns |= {f"{column}_transcript": pa.array(texts, pa.string()) for column, texts in transcripts.items()}
    footer = {
        "settings": settings,
        "clips": len(names),
        "samples": sum(lengths),
        "audio_sha256": digest.hexdigest(),
        "versions": library_versions(),
        "sums": {column: _sums(items) for column, items in vectors.items()},
    }
    write_file(path, pa.table(columns), footer, use_dictionary=False)


def _sums(items: list[np.ndarray]) -> dict:
    """Of all vectors [C]: their number, sum and sum of squares."""
    flat = np.concatenate(items).astype(np.float64)
    return {"vectors": len(flat), "sum": flat.sum(0).tolist(), "squares": (flat**2).sum(0).tolist()}


def _float16(values: torch.Tensor, what: str) -> np.ndarray:
    values = values.float().cpu().numpy()
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST:
        raise ValueError(f"{what}: a feature is NaN, infinite or past float16 ({LARGEST:.0f})")
    return values.astype(np.float16)


def _list_array(items: list[np.ndarray], size: int) -> pa.Array:
    """Arrays [F, C] to a column of lists of fixed-size lists."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(items).reshape(-1)), size)
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in items])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _manifest(paths: list[Path], settings: dict) -> dict:
    footers = [read_footer(path) for path in paths]
    shards = [
        {
            "file": path.name,
            "clips": footer["clips"],
            "seconds": footer["samples"] / SAMPLING_RATE,
            "audio_sha256": footer["audio_sha256"],
            "versions": footer["versions"],
        }
        for path, footer in zip(paths, footers, strict=True)
    ]
    statistics = {}
    for column in settings["teachers"]:
        sums = [footer["sums"][column] for footer in footers]
        vectors = sum(part["vectors"] for part in sums)
        mean, squares = (np.sum([part[key] for part in sums], 0) / max(vectors, 1) for key in ("sum", "squares"))
        std = np.sqrt(np.maximum(squares - mean**2, 0))
        # a channel that never varies (by more than float16 can say) is left alone
        std = np.where(std > 1e-4 * np.abs(mean), std, 1.0)
        statistics[column] = {"vectors": vectors, "mean": mean.tolist(), "std": std.tolist()}
    return {**settings, "statistics": statistics, "shards": shards}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="Hub id, folder, or Parquet files (*.parquet)")
    parser.add_argument("--split", default="train", help="split, in `datasets` syntax")
    parser.add_argument("--config-name", default=None, help="configuration of a data set that has several")
    parser.add_argument("--audio-column", default="audio")
    parser.add_argument("--transcripts", default=None, metavar="COLUMN", help="given transcripts for the text teacher")
    parser.add_argument("--teacher", action="append", required=True, metavar="NAME=KIND[,key=value ...]")
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument("--shard-clips", type=int, default=256, help="clips a file, the unit of resuming")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    state = process_state()
    if options.shard_clips < 1:
        raise ValueError(f"`--shard-clips` must be at least 1, got {options.shard_clips}")
    teachers = {}
    for name, kind, keys in map(parse_teacher, options.teacher):
        if name in teachers or name in ("name", "num_samples"):
            raise ValueError(f"`--teacher`: the name {name!r} is taken")
        if kind == "text" and options.transcripts:
            keys.setdefault("recognizer", None)
        teachers[name] = load_teacher(kind, device=state.device, **keys)
    columns = [] if options.transcripts is None else [options.transcripts]
    rows = AudioRows(options.source, options.split, options.audio_column, columns, options.config_name)
    settings = {
        "source": options.source,
        "split": options.split,
        "config_name": options.config_name,
        "audio_column": options.audio_column,
        "transcripts": options.transcripts,
    }
    manifest = extract(
        rows,
        teachers,
        options.output_dir,
        settings,
        options.shard_clips,
        state.process_index,
        state.num_processes,
        progress=state.is_local_main_process,
    )
    if manifest is not None:
        seconds = sum(shard["seconds"] for shard in manifest["shards"])
        print(f"{options.output_dir}: {manifest['clips']} clips, {seconds / 3600:.2f} h")
    state.destroy_process_group()


if __name__ == "__main__":
    main()
