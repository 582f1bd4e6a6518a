"""Files and folders through the codec: which file becomes which, and what happens to each.

A file is done or it is not: whatever is wrong with one is said in one line, and the others of its folder go on.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import soundfile
import torch
from tqdm import tqdm

from .audio import WRITE_FORMATS, audio_files, load_audio, write_audio
from .codes_file import CODES_SUFFIX, load_codes, save_codes
from .inference import Codec


@dataclass(frozen=True)
class Job:
    """
    One file to convert.

    Args:
        source (`Path`): File to read.
        target (`Path`): File to write.
    """

    source: Path
    target: Path


@dataclass(frozen=True)
class Done:
    """
    What became of one file.

    Args:
        seconds (`float`): Length of the clip.
        bitrate (`float`): Of its codes, in bits per second.
        channels (`int`, *optional*): Channels that the file read had; more than one were averaged. `None`: not known.
    """

    seconds: float
    bitrate: float
    channels: int | None = None


def reconstruct_file(codec: Codec, job: Job, num_quantizers: int | None) -> Done:
    """Audio file -> codes -> audio file."""
    codes = codec.encode(load_audio(job.source, codec.sampling_rate), num_quantizers)
    _write(job.target, lambda path: write_audio(path, codec.decode(codes), codec.sampling_rate))
    return Done(codes.seconds, codes.bitrate, num_channels(job.source))


def encode_file(codec: Codec, job: Job, num_quantizers: int | None) -> Done:
    """Audio file -> file of codes."""
    codes = codec.encode(load_audio(job.source, codec.sampling_rate), num_quantizers)
    _write(job.target, lambda path: save_codes(path, codes))
    return Done(codes.seconds, codes.bitrate, num_channels(job.source))


def decode_file(codec: Codec, job: Job, num_quantizers: int | None) -> Done:
    """File of codes -> audio file."""
    codes = load_codes(job.source)
    waveform = codec.decode(codes, num_quantizers)
    _write(job.target, lambda path: write_audio(path, waveform, codec.sampling_rate))
    return Done(codes.seconds, codes.bitrate / codes.num_quantizers * (num_quantizers or codes.num_quantizers))


CONVERSIONS = {"reconstruct": reconstruct_file, "encode": encode_file, "decode": decode_file}


def plan(command: str, source: Path, target: Path, suffix: str, overwrite: bool) -> tuple[list[Job], list[str]]:
    """
    Decides what becomes of what, before anything is loaded.

    Args:
        command (`str`): A key of `CONVERSIONS`.
        source (`Path`): A file, or a folder whose files are taken at any depth. Files below `target` are left out.
        target (`Path`): A file for a file, or a folder, which keeps the structure of `source`.
        suffix (`str`): Of the files written into a folder.
        overwrite (`bool`): Whether files that exist may be replaced.

    Returns:
        `tuple[list[Job], list[str]]`: what is to be done, and a line for each file that cannot be.

    Raises:
        `ValueError`: Nothing can be done.
    """
    suffixes = (CODES_SUFFIX,) if command == "encode" else tuple(sorted(WRITE_FORMATS))
    if source.is_dir():
        if target.exists() and not target.is_dir():
            raise ValueError(f"{target}: a file, but {source} is a folder")
        jobs = _folder_jobs(command, source, target, suffix)
    elif not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    elif target.is_dir():
        jobs = [Job(source, target / f"{source.stem}{suffix}")]
    elif target.suffix.lower() not in suffixes:
        raise ValueError(f"{target}: must be a folder or end in {' '.join(suffixes)}")
    elif not target.parent.is_dir():
        raise ValueError(f"{target.parent}: no such folder")
    else:
        jobs = [Job(source, target)]

    possible, refused, taken = [], [], {}
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target in taken:
            refused.append(f"{job.source}: would write {job.target}, as {taken[job.target]} does")
            continue
        taken[job.target] = job.source
        if job.target.resolve() in sources:
            refused.append(f"{job.target}: would replace a file that is to be read")
        elif job.target.exists() and not overwrite:
            refused.append(f"{job.target}: exists already (--overwrite replaces it)")
        else:
            possible.append(job)
    return possible, refused


def run(
    command: str, codec: Codec, jobs: list[Job], num_quantizers: int | None, progress: bool
) -> tuple[list[Done], list[str]]:
    """
    Converts one file after the other; no more than one is in memory.

    Args:
        command (`str`): A key of `CONVERSIONS`.
        codec ([`Codec`]): What converts.
        jobs (`list[Job]`): From [`plan`].
        num_quantizers (`int`, *optional*): How many codebooks to use. Default: all there are.
        progress (`bool`): Shows a bar.

    Returns:
        `tuple[list[Done], list[str]]`: an entry for each file done, and a line, already printed to stderr, for each
        that failed.
    """
    done, failures = [], []
    for job in tqdm(jobs, desc=command, unit="file", disable=not progress):
        try:
            done.append(CONVERSIONS[command](codec, job, num_quantizers))
        except (ValueError, OSError, MemoryError, torch.OutOfMemoryError) as error:
            failures.append(error_line(error, job))
            tqdm.write(f"affectcodec: error: {failures[-1]}", file=sys.stderr)
    return done, failures


def convert(
    command: str,
    source: Path,
    target: Path,
    load: Callable[[], Codec],
    num_quantizers: int | None = None,
    suffix: str = ".wav",
    overwrite: bool = False,
) -> bool:
    """
    What a sub-command does: plans, loads the model, converts, and says so.

    Args:
        command, source, target, suffix, overwrite: See [`plan`].
        load (`Callable[[], Codec]`): Gives the codec; called once there is something to do.
        num_quantizers (`int`, *optional*): How many codebooks to use. Default: all there are.

    Returns:
        `bool`: Whether every file was done.

    Raises:
        `ValueError`: Nothing can be done.
    """
    jobs, refused = plan(command, source, target, suffix, overwrite)
    for line in refused:
        print(f"affectcodec: error: {line}", file=sys.stderr)
    if not jobs:
        return False
    codec = load()
    limit = codec.model.config.num_quantizers
    if num_quantizers is not None and num_quantizers > limit:
        raise ValueError(f"--num-quantizers must lie in 1..{limit} for {codec.name}, got {num_quantizers}")

    start = time.perf_counter()
    done, failures = run(command, codec, jobs, num_quantizers, progress=source.is_dir())
    elapsed = time.perf_counter() - start
    mixed = sum((item.channels or 1) > 1 for item in done)
    if mixed and not source.is_dir():
        print(f"affectcodec: note: {source}: {done[0].channels} channels mixed down to mono", file=sys.stderr)
    elif mixed:
        print(f"affectcodec: note: {mixed} of {len(done)} files had several channels, mixed to mono", file=sys.stderr)
    if done:
        seconds = sum(item.seconds for item in done)
        kbps = sum(item.bitrate * item.seconds for item in done) / seconds / 1000
        where = target if source.is_dir() else jobs[0].target
        count = f"{len(done)} file{'s' * (len(done) > 1)}, " if source.is_dir() else ""
        print(f"{where}: {count}{seconds:.2f} s of audio at {kbps:.2f} kbps, {seconds / elapsed:.1f} x real time")
    failed = len(failures) + len(refused)
    if failed and source.is_dir():
        print(f"affectcodec: error: {source}: {failed} of {len(done) + failed} files failed", file=sys.stderr)
    return not failed


def num_channels(path: Path) -> int | None:
    """Channels of an audio file that [`~hf_affectcodec.audio.load_audio`] has read; `None` for a pipe."""
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            # without its name, as soundfile takes a name in .raw for headerless samples
            return soundfile.info(SimpleNamespace(seek=file.seek, tell=file.tell, read=file.read)).channels
    except soundfile.LibsndfileError:  # then it was read by PyAV
        import av

        with av.open(str(path)) as container:
            return container.streams.audio[0].channels


def error_line(error: Exception, job: Job) -> str:
    """What went wrong with a job, in one line that starts with the name of the file to blame."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or job.source}: {error.strerror}"
    if not text.startswith((f"{job.source}: ", f"{job.target}: ")):
        text = f"{job.source}: {text or type(error).__name__}"
    return " ".join(text.split())


def _folder_jobs(command: str, source: Path, target: Path, suffix: str) -> list[Job]:
    if command == "decode":
        files = sorted(
            path
            for path in source.rglob(f"*{CODES_SUFFIX}")
            if not any(part.startswith(".") for part in path.relative_to(source).parts) and path.is_file()
        )
    else:
        files = audio_files(source)
    inside = target.resolve()
    if inside != source.resolve() and inside.is_relative_to(source.resolve()):
        files = [path for path in files if not path.resolve().is_relative_to(inside)]
    if not files:
        raise ValueError(f"{source}: no {'files of codes' if command == 'decode' else 'audio files'} in this folder")
    return [Job(path, target / path.relative_to(source).with_suffix(suffix)) for path in files]


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Makes the folder only now that there is something to put into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
