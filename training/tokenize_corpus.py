"""
Turns a corpus of audio into a data set of codes, ready to train a speech language model or an emotion recogniser on.

    accelerate launch training/tokenize_corpus.py --source "data/open-prompts/train-*.parquet" --split train \\
        --keep text language speaker=speaker_id --output-dir codes/open-prompts-train

`--model` is a Hub id or a folder of any audio-tokenisation model of transformers (AffectCodec, EnCodec, DAC, Mimi, X-Codec
...); by default it is the checkpoint that comes with the package. `--encode key=value` passes an argument on to the model's
`encode`: `num_quantizers=4` (AffectCodec, Mimi), `n_quantizers=9` (DAC), `bandwidth=6.0` (EnCodec, in kbps, whose own default
is its lowest).

The result is a data set, `load_dataset("parquet", data_files="OUTPUT/*.parquet")`, one row a clip:

    name          string                  path of the clip in the corpus, or its row
    row           int64                   its row in the split
    num_samples   int64                   its length at the model's sampling rate; decoding gives up to a frame more
    num_frames    int32                   F
    audio_codes   list of Q lists of F    int16 (int32 if a codebook has more than 32768 entries)
    ...                                   the columns of `--keep`, with their types (names of class labels too)

so that `model.decode(torch.tensor(row["audio_codes"])[None])` is the waveform, and `.with_format("torch")` gives tensors [Q, F].
`manifest.json`, written last, holds what produced it: model, revision, SHA-256 of the weights, rates, codebooks, versions of
the libraries, every clip that was left out and why.

`--streaming` reads a corpus from where it is (the Hub, or Parquet files larger than this disk would hold twice), without
downloading it first: each of its files becomes a file of codes, `row` counts within it, and the commit of a Hub id is held
to. There must be as many files as processes, and an audio folder is one file.

A file appears whole or not at all. Run the command again and it goes on with the files that are missing; with nothing missing it
writes nothing. Another model, corpus or option is refused. On several ranks (`torchrun --nproc_per_node N` on machines without
accelerator, `accelerate launch` elsewhere, any number of nodes on one file system) each takes every n-th file, and the result
is the same to the byte on machines that compute the same.

Codes are those of the clip alone, in float32. AffectCodec gives that for padded batches too, so its clips are batched by
length (`--batch-seconds`); other models let padding leak into the codes, so theirs go one at a time.
"""

import argparse
import inspect
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
import yaml
from sharded_output import (
    AudioRows,
    RowFiles,
    StreamedRowFiles,
    Window,
    decode_clip,
    library_versions,
    plan_count,
    process_state,
    read_footer,
    write_file,
    write_manifest,
)
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor, AutoModel

from hf_affectcodec import pretrained_path
from hf_affectcodec.audio import AudioFileError
from hf_affectcodec.benchmarks.codecs import AudioTokenizationCodec
from hf_affectcodec.teachers.frozen import commit_of, load_frozen, weights_sha256


# Models whose padded batch gives each clip the codes that it gets alone.
PADDING_SAFE = ("affectcodec",)
OWN_COLUMNS = ("name", "row", "num_samples", "num_frames", "audio_codes")
WINDOW_CLIPS = 128  # clips in memory at a time, and as many being decoded; batches are made within them


@dataclass
class CorpusCodec:
    """
    A codec and what the manifest says of it. [`load_corpus_codec`] makes one.

    Args:
        codec ([`AudioTokenizationCodec`]): Model and feature extractor.
        arguments (`dict`): Passed on to the model's `encode`.
        description (`dict`): What the codes depend on, fit for JSON.
        batch_seconds (`float`): Padded seconds of audio a batch; 0: one clip at a time.
    """

    codec: AudioTokenizationCodec
    arguments: dict
    description: dict
    batch_seconds: float

    @property
    def sampling_rate(self) -> int:
        """In Hz."""
        return self.description["sampling_rate"]

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return self.description["hop_length"]

    @property
    def dtype(self) -> np.dtype:
        """The smallest integer type for a code."""
        return np.dtype(np.int16 if self.description["codebook_size"] <= 1 << 15 else np.int32)


@dataclass
class Work:
    """What a process did in one run."""

    clips: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    skipped: list[dict] = field(default_factory=list)

    @property
    def hours_per_hour(self) -> float:
        """Hours of audio an hour."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0


def load_corpus_codec(
    source: str | None = None,
    revision: str = "main",
    arguments: dict | None = None,
    batch_seconds: float | None = None,
    device: "str | torch.device" = "cpu",
    trust_remote_code: bool = False,
) -> CorpusCodec:
    """
    Loads a codec and tries it on a second of silence.

    Args:
        source (`str`, *optional*): Folder or Hub id. Default: the checkpoint shipped in the package.
        revision (`str`, *optional*, defaults to `"main"`): Revision of a Hub id.
        arguments (`dict`, *optional*): For the model's `encode`.
        batch_seconds (`float`, *optional*): Padded seconds of audio a batch. Default: 20 for models whose padded batch
            gives each clip its own codes, else one clip at a time.
        device: Where it runs.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Runs a Hub repo's own code.

    Raises:
        ValueError: Weights are missing, `encode` takes no such argument, or the model's codes are not [B, Q, F].
    """
    source, arguments = str(source or pretrained_path()), arguments or {}
    model = load_frozen(AutoModel, source, revision, device, trust_remote_code=trust_remote_code)
    extractor = AutoFeatureExtractor.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    config = model.config
    if not hasattr(model, "encode"):
        raise ValueError(f"`--model` {source!r}: {type(model).__name__} has no `encode`")
    unknown = sorted(set(arguments) - set(inspect.signature(model.encode).parameters))
    if unknown:
        raise ValueError(f"`--encode`: {type(model).__name__}.encode takes no {unknown[0]!r}")
    safe = config.model_type in PADDING_SAFE
    if batch_seconds and not safe:
        raise ValueError(
            f"`--batch-seconds`: in a padded batch {config.model_type!r} gives other codes than for the clip alone"
        )
    batch_seconds = (20.0 if safe else 0.0) if batch_seconds is None else batch_seconds
    name = Path(source).resolve().name if Path(source).is_dir() else source
    codec = AudioTokenizationCodec(model, extractor, name, device)
    rate = extractor.sampling_rate
    # the one has no `hop_length`, the other no `frame_size`
    hop_length = int(config.frame_size if hasattr(config, "frame_size") else config.hop_length)
    corpus_codec = CorpusCodec(codec, arguments, {}, batch_seconds)
    (silence,) = encode(corpus_codec, [torch.zeros(rate)])
    if abs(silence.shape[1] - rate / hop_length) > 2:
        raise ValueError(f"`--model` {source!r}: {silence.shape[1]} frames for a second, {rate / hop_length} expected")
    corpus_codec.description |= {
        "id": name,
        "revision": commit_of(source, revision),
        "model_type": config.model_type,
        "weights_sha256": weights_sha256(model),
        "sampling_rate": rate,
        "hop_length": hop_length,
        "num_quantizers": silence.shape[0],
        "codebook_size": round(2**codec.bits_per_code),
        "encode": arguments,
    }
    return corpus_codec


@torch.inference_mode()
def encode(corpus_codec: CorpusCodec, waveforms: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """
    Codes [Q, F] int64 of each waveform [T], of at least one frame; several only if the model is safe under padding.

    Raises:
        ValueError: The model codes in several chunks, or needs more than the codes to decode.
    """
    codec = corpus_codec.codec
    samples = [waveform.numpy() for waveform in waveforms]
    features = codec.feature_extractor(
        samples if len(samples) > 1 else samples[0],
        sampling_rate=codec.feature_extractor.sampling_rate,
        return_tensors="pt",
    ).to(codec.device)
    accepted = inspect.signature(codec.model.encode).parameters
    features = {key: value for key, value in features.items() if key in accepted}
    outputs = codec.model.encode(**features, **corpus_codec.arguments)
    codes = outputs.get("audio_codes")
    if codes is None:
        raise ValueError(f"`--model`: {type(codec.model).__name__} gives no `audio_codes`")
    if any(scale is not None for scale in outputs.get("audio_scales") or ()):
        raise ValueError(
            f"`--model`: {type(codec.model).__name__} as configured decodes from scales too, not codes alone"
        )
    if codes.ndim == 4 and len(codes) == 1:  # EnCodec: chunks first, and there is one
        codes = codes[0]
    if codes.ndim != 3 or len(codes) != len(waveforms):
        raise ValueError(f"`--model`: `audio_codes` must be [{len(waveforms)}, Q, F], got {list(codes.shape)}")
    codes = codes.cpu().numpy()
    if len(waveforms) == 1:
        return [codes[0]]
    frames = outputs.audio_codes_mask.sum(-1).tolist()
    return [item[:, :count] for item, count in zip(codes, frames, strict=True)]


def batches(lengths: Sequence[int], most: float) -> list[list[int]]:
    """Indices grouped by length, shortest first; a group takes at most `most` padded samples, or it is one clip."""
    groups, longest = [], 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        longest = lengths[index]
        if groups and (len(groups[-1]) + 1) * longest <= most:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def decode(name: str, content: "bytes | str | None", corpus_codec: CorpusCodec) -> torch.Tensor:
    """
    The waveform [T] of a clip.

    Raises:
        AudioFileError: It cannot be read, or has less than a frame.
    """
    rate, hop_length = corpus_codec.sampling_rate, corpus_codec.hop_length
    waveform = decode_clip(name, content, rate)
    if len(waveform) < hop_length:
        raise AudioFileError(f"{name}: {len(waveform)} samples at {rate} Hz, fewer than one frame ({hop_length})")
    return waveform


def read_windows(
    files: "RowFiles | StreamedRowFiles", todo: Sequence[int], corpus_codec: CorpusCodec, decode_threads: int
) -> Iterator[tuple[int, Window | None, list[Future]]]:
    """
    For each file to make: its windows of rows with futures of their waveforms, then `None`. While the model is busy with
    one, the next is read and decoded.
    """

    def windows():
        for index in todo:
            for window in files.windows(index, WINDOW_CLIPS):
                yield index, window, [pool.submit(decode, *clip, corpus_codec) for clip in window.clips]
            yield index, None, []

    with ThreadPoolExecutor(decode_threads) as pool, ThreadPoolExecutor(1) as reader:
        iterator = windows()
        ahead = reader.submit(next, iterator, None)
        while (item := ahead.result()) is not None:
            ahead = reader.submit(next, iterator, None)
            yield item


def tokenize(
    files: "RowFiles | StreamedRowFiles",
    corpus_codec: CorpusCodec,
    output_dir: Path,
    settings: dict,
    keep: dict[str, str] | None = None,
    max_skipped: float = 0.1,
    decode_threads: int = 1,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
) -> tuple[dict | None, Work]:
    """
    Writes this rank's missing files of codes, and the manifest if all ranks' are there.

    Args:
        files ([`RowFiles`] or [`StreamedRowFiles`]): The corpus, and how it is cut.
        corpus_codec ([`CorpusCodec`]): What encodes.
        output_dir (`Path`): Folder to write to.
        settings (`dict`): What else the result depends on (source, split, columns), fit for JSON.
        keep (`dict[str, str]`, *optional*): Columns to keep, our name to that of `files`.
        max_skipped (`float`, *optional*, defaults to 0.1): Share of a file's clips that may be unreadable.
        decode_threads (`int`, *optional*, defaults to 1): Threads that decode audio beside the model.
        rank, world_size (`int`): This process and how many there are.
        progress (`bool`, *optional*, defaults to `True`): Shows a bar.

    Returns:
        `tuple[dict | None, Work]`: The manifest, or `None` while files of other ranks are missing; and what this run did.

    Raises:
        ValueError: The folder holds codes of other settings, too many clips cannot be read, there are no rows, or fewer
            files than processes, when they are streamed.
        ConnectionError: A remote clip could not be fetched; what was finished is kept.
    """
    keep, work = keep or {}, Work()
    if not files.count:
        raise ValueError("`rows` is empty")
    if files.sizes is None and files.count < world_size:
        raise ValueError(
            f"`--streaming` deals out whole files: {files.count} of the source are too few for {world_size} processes"
        )
    settings = {**settings, "keep": keep, **files.identity, "model": corpus_codec.description}
    settings = json.loads(json.dumps(settings))  # as it reads back: tuples are lists
    output_dir = Path(output_dir)
    paths = plan_count(output_dir, "codes", settings, files.count)
    todo = [index for index in range(rank, files.count, world_size) if not paths[index].exists()]
    bar = tqdm(
        total=None if files.sizes is None else sum(files.sizes[index] for index in todo),
        desc=f"codes (rank {rank} of {world_size})",
        unit="clip",
        disable=not progress,
    )
    started = time.perf_counter()
    items, tables = [], []
    with bar:
        for index, window, waveforms in read_windows(files, todo, corpus_codec, decode_threads):
            if window is not None:
                items += encode_window(window, waveforms, corpus_codec, work, bar)
                tables.append(window.columns)
                continue
            write_codes(paths[index], files, corpus_codec, keep, settings, items, tables, max_skipped)
            items, tables = [], []
            work.seconds = time.perf_counter() - started
            bar.set_postfix_str(f"{work.hours_per_hour:.0f} h/h", refresh=False)
    if not all(path.exists() for path in paths):
        return None, work
    manifest = make_manifest(paths, settings)
    write_manifest(output_dir, manifest)
    return manifest, work


def encode_window(
    window: Window, futures: list[Future], corpus_codec: CorpusCodec, work: Work, bar: tqdm
) -> list[dict]:
    """For each clip: `name`, `row`, and `num_samples` and `audio_codes` [Q, F], or `skipped`, the reason."""
    items = [{"name": name, "row": window.first + offset} for offset, (name, _) in enumerate(window.clips)]
    waveforms = {}
    for offset, future in enumerate(futures):
        try:
            waveforms[offset] = future.result()
        except AudioFileError as error:
            items[offset]["skipped"] = str(error)
            work.skipped.append(items[offset])
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            bar.update()
    offsets = list(waveforms)
    lengths = [len(waveforms[offset]) for offset in offsets]
    for group in batches(lengths, corpus_codec.batch_seconds * corpus_codec.sampling_rate):
        chosen = [offsets[index] for index in group]
        codes = encode(corpus_codec, [waveforms[offset] for offset in chosen])
        for offset, item in zip(chosen, codes, strict=True):
            items[offset] |= {"num_samples": len(waveforms[offset]), "audio_codes": item.astype(corpus_codec.dtype)}
        work.clips += len(chosen)
        work.audio_seconds += sum(lengths[index] for index in group) / corpus_codec.sampling_rate
        bar.update(len(chosen))
    return items


def write_codes(
    path: Path,
    files: "RowFiles | StreamedRowFiles",
    corpus_codec: CorpusCodec,
    keep: dict[str, str],
    settings: dict,
    items: list[dict],
    tables: list[pa.Table],
    max_skipped: float,
):
    """One file, from what [`encode_window`] gave for its windows and their wanted columns."""
    skipped = [item for item in items if "skipped" in item]
    if len(skipped) > max_skipped * len(items):
        raise ValueError(
            f"`--max-skipped`: {len(skipped)} of {len(items)} clips of {path.name} cannot be read, {skipped[0]['skipped']}"
        )
    chosen = [index for index, item in enumerate(items) if "skipped" not in item]
    items = [items[index] for index in chosen]
    codes = [item["audio_codes"] for item in items]
    features = datasets.Features(
        {
            "name": datasets.Value("string"),
            "row": datasets.Value("int64"),
            "num_samples": datasets.Value("int64"),
            "num_frames": datasets.Value("int32"),
            "audio_codes": datasets.List(datasets.List(datasets.Value(corpus_codec.dtype.name))),
            **{ours: files.features[theirs] for ours, theirs in keep.items()},
        }
    )
    columns = {
        "name": pa.array([item["name"] for item in items], pa.string()),
        "row": pa.array([item["row"] for item in items], pa.int64()),
        "num_samples": pa.array([item["num_samples"] for item in items], pa.int64()),
        "num_frames": pa.array([item.shape[1] for item in codes], pa.int32()),
        "audio_codes": codes_column(codes, corpus_codec.dtype),
    }
    if tables and keep:
        kept = pa.concat_tables(tables).take(pa.array(chosen, pa.int64()))
        columns |= {ours: kept[theirs] for ours, theirs in keep.items()}
    elif keep:  # a source file without rows
        columns |= {ours: pa.array([], features.arrow_schema.field(ours).type) for ours in keep}
    # with the features in its metadata, `datasets` reads back what arrow has no word for: names of classes
    table = pa.table(columns).replace_schema_metadata(features.arrow_schema.metadata)
    footer = {
        "settings": settings,
        "clips": len(items),
        "samples": sum(item["num_samples"] for item in items),
        "frames": sum(item.shape[1] for item in codes),
        "skipped": skipped,
        "versions": library_versions(),
    }
    write_file(path, table, footer)


def codes_column(codes: Sequence[np.ndarray], dtype: np.dtype) -> pa.Array:
    """Arrays [Q, F] to a column of lists of lists."""
    flat = np.concatenate([np.zeros(0, dtype), *(item.reshape(-1) for item in codes)])
    inner = np.cumsum([0, *(item.shape[1] for item in codes for _ in range(item.shape[0]))]).astype(np.int32)
    outer = np.cumsum([0, *(item.shape[0] for item in codes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(outer), pa.ListArray.from_arrays(pa.array(inner), pa.array(flat)))


def make_manifest(paths: list[Path], settings: dict) -> dict:
    footers = [read_footer(path) for path in paths]
    shards = [
        {
            "file": path.name,
            "clips": footer["clips"],
            "seconds": footer["samples"] / settings["model"]["sampling_rate"],
            "frames": footer["frames"],
            "versions": footer["versions"],
        }
        for path, footer in zip(paths, footers, strict=True)
    ]
    skipped = [item for footer in footers for item in footer["skipped"]]
    return {**settings, "num_skipped": len(skipped), "skipped": skipped, "shards": shards}


def parse_keep(texts: Sequence[str]) -> dict[str, str]:
    """`["text", "speaker=speaker_id"]` to `{"text": "text", "speaker": "speaker_id"}`."""
    keep = {}
    for text in texts:
        ours, equals, theirs = text.partition("=")
        theirs = theirs if equals else ours
        if not (ours and theirs):
            raise ValueError(f"`--keep` takes COLUMN or NAME=COLUMN, got {text!r}")
        if ours in keep or ours in OWN_COLUMNS:
            raise ValueError(f"`--keep`: the name {ours!r} is taken")
        keep[ours] = theirs
    return keep


def parse_encode(texts: Sequence[str]) -> dict:
    """`["bandwidth=6.0"]` to `{"bandwidth": 6.0}`."""
    arguments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals):
            raise ValueError(f"`--encode` takes key=value, got {text!r}")
        arguments[key] = yaml.safe_load(value)
    return arguments


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="Hub id, folder, or Parquet files (*.parquet)")
    parser.add_argument("--split", default="train", help="split, in `datasets` syntax")
    parser.add_argument("--config-name", default=None, help="configuration of a data set that has several")
    parser.add_argument("--source-revision", default=None, help="branch, tag or commit of a Hub id (default: main)")
    parser.add_argument("--streaming", action="store_true", help="read it from where it is, file by file")
    parser.add_argument("--audio-column", default="audio")
    parser.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="COLUMN or NAME=COLUMN, any number")
    parser.add_argument("--model", default=None, help="Hub id or folder (default: the shipped checkpoint)")
    parser.add_argument("--revision", default="main", help="revision of a Hub id")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the Hub repo's own code")
    parser.add_argument(
        "--encode", nargs="+", default=[], metavar="KEY=VALUE", help="arguments of the model's `encode`"
    )
    parser.add_argument("--output-dir", required=True, type=Path)
    parser.add_argument(
        "--shard-clips",
        type=int,
        default=None,
        help="clips a file, the unit of resuming (default: 1000; with --streaming a file is a file of the source)",
    )
    parser.add_argument(
        "--batch-seconds", type=float, default=None, help="padded seconds a batch (default: 20; 0: one clip)"
    )
    parser.add_argument("--decode-threads", type=int, default=1, help="threads that decode audio beside the model")
    parser.add_argument(
        "--max-skipped", type=float, default=0.1, help="share of a file's clips that may be unreadable"
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    if options.streaming and options.shard_clips is not None:
        raise ValueError("`--shard-clips` does not go with `--streaming`: each file of the source gives a file")
    shard_clips = 1000 if options.shard_clips is None else options.shard_clips
    for name, value in (("--shard-clips", shard_clips), ("--decode-threads", options.decode_threads)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if options.batch_seconds is not None and not (options.batch_seconds >= 0 and math.isfinite(options.batch_seconds)):
        raise ValueError(f"`--batch-seconds` must be at least 0, got {options.batch_seconds}")
    keep, encode_arguments = parse_keep(options.keep), parse_encode(options.encode)
    state = process_state()
    torch.backends.cudnn.allow_tf32 = False  # convolutions of 10-bit mantissas would give codes of their own
    corpus_codec = load_corpus_codec(
        options.model,
        options.revision,
        encode_arguments,
        options.batch_seconds,
        state.device,
        options.trust_remote_code,
    )
    corpus = {
        "source": options.source,
        "split": options.split,
        "audio_column": options.audio_column,
        "columns": list(keep.values()),
        "config_name": options.config_name,
        "revision": options.source_revision,
    }
    if options.streaming:
        files = StreamedRowFiles(**corpus)
    else:
        files = RowFiles(AudioRows(**corpus, unique_names=False), shard_clips)
    settings = {
        "source": options.source,
        "split": options.split,
        "config_name": options.config_name,
        "audio_column": options.audio_column,
    }
    manifest, work = tokenize(
        files,
        corpus_codec,
        options.output_dir,
        settings,
        keep,
        options.max_skipped,
        options.decode_threads,
        state.process_index,
        state.num_processes,
        progress=state.is_local_main_process,
    )
    print(
        f"rank {state.process_index} of {state.num_processes}: {work.clips} clips, {len(work.skipped)} skipped, "
        f"{work.audio_seconds / 3600:.3f} h of audio in {work.seconds:.1f} s, {work.hours_per_hour:.0f} hours an hour"
    )
    if manifest is not None:
        hours = sum(shard["seconds"] for shard in manifest["shards"]) / 3600
        written = sum(shard["clips"] for shard in manifest["shards"])
        print(f"{options.output_dir}: {written} clips, {hours:.2f} h, {manifest['num_skipped']} skipped")
    state.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"tokenize_corpus: error: {' '.join(str(error).split())}")
