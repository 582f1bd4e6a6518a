"""Reading, resampling and writing waveforms.

Waveforms are mono `float32` tensors `[1, T]` in -1..1 at a rate given in Hz. Whatever is wrong with a file is an
[`AudioFileError`] whose message is one line that names the file.
"""

import io
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio.functional


# What `audio_files` lists; everything but m4a and aac is read by libsndfile.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"}
    | {".m4a", ".aac"}
)
# suffix -> libsndfile's container and coding
WRITE_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; a header that says anything else is broken, and resampling it explodes

_BLOCK = 1 << 20  # samples, all channels counted, decoded at a time
_MP3_FORMATS = ("MP3", "MPEG")  # libsndfile's names
# Seconds of an MP3 decoded before a crop and dropped: its frames lean on bits of those before, up to 511 bytes back, which
# is ten frames of the thinnest stream; a decoder that starts at the crop makes silence of them.
_MP3_RUN_UP = 0.5
_LOWPASS_WIDTH, _ROLLOFF = 6, 0.99  # the defaults of torchaudio.functional.resample
_MAX_KERNEL = 1 << 21  # taps; above it torchaudio's kernel table (one row per phase) costs more than the audio
_STREAMED = 0x7FFF_F000  # RIFF data sizes from here up mean "written to a pipe, length unknown" (sox, ffmpeg)
_W64_GUID = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


class _SequentialFile(soundfile.SoundFile):
    """
    Reads on where it stopped. soundfile seeks to there after each read, which empties an MP3 decoder of the bits that its
    next frames lean on: each block would begin with a gap.
    """

    def seekable(self) -> bool:
        return False


class AudioFileError(ValueError):
    """A file that gives no usable audio. The message is one line that starts with the name of the file."""


def load_audio(
    source: "str | os.PathLike | bytes | BinaryIO",
    sampling_rate: int = 16_000,
    start: float | None = None,
    stop: float | None = None,
    name: str | None = None,
) -> torch.Tensor:
    """
    Reads an audio file as mono at the wanted rate.

    Channels are averaged; other rates are resampled as `torchaudio.functional.resample` does. Reading is by libsndfile
    (wav, flac, ogg, opus, mp3, aiff, au, caf, w64 ...), told by content and never by suffix. MP4/M4A, AAC, Matroska,
    ASF and AMR files, which libsndfile cannot read, go to PyAV (extra `[eval]`), which brings its FFmpeg along.

    Args:
        source (`str`, `os.PathLike`, `bytes` or binary file): The file, its content, or an open binary file.
        sampling_rate (`int`, *optional*, defaults to 16000): Rate of the result in Hz.
        start (`float`, *optional*): First second wanted; the file is sought, not decoded from the beginning (an MP3 from
            half a second earlier; what PyAV reads is decoded from the beginning, and no further than `stop`).
        stop (`float`, *optional*): Second to stop before; past the end of the file it means the end.
        name (`str`, *optional*): What to call `bytes` or a nameless file in errors.

    Returns:
        `torch.Tensor` `[1, T]`, float32. With `start` and `stop` it is the slice
        `[:, round(start * sampling_rate):round(stop * sampling_rate)]` of the whole file's waveform.

    Raises:
        `AudioFileError`: the file is missing, unreadable, empty, not audio, truncated (shorter than its header
            declares), of zero length, or holds NaN or infinite samples; or `start` lies past its end.
        `ValueError`: `sampling_rate`, `start` or `stop` is out of range.
    """
    _check_rate(sampling_rate)
    if start is not None and not (math.isfinite(start) and start >= 0):
        raise ValueError(f"`start` must be seconds >= 0, got {start!r}")
    if stop is not None and not (math.isfinite(stop) and stop > (start or 0.0)):
        raise ValueError(f"`stop` must be seconds > `start` ({start or 0.0}), got {stop!r}")

    with _opened(source, name) as (file, label):
        head = file.read(64)
        if not head:
            raise AudioFileError(f"{label}: empty file")
        check_complete(file, label)
        demuxer = _pyav_demuxer(head)
        if demuxer is not None:
            waveform, rate, total = _decode_with_pyav(file, label, demuxer, sampling_rate, stop)
            begin = 0
        else:
            waveform, rate, begin, total = _decode_with_soundfile(file, label, sampling_rate, start, stop)
    if total == 0:
        raise AudioFileError(f"{label}: no samples")

    first = round((start or 0.0) * sampling_rate)
    last = -(-total * sampling_rate // rate) if stop is None else round(stop * sampling_rate)
    if first * rate >= total * sampling_rate:
        raise AudioFileError(f"{label}: `start` = {start} s lies past its end ({total / rate:.3f} s)")
    offset = begin * sampling_rate // rate
    waveform = resample(torch.from_numpy(waveform), rate, sampling_rate)[first - offset : last - offset]
    if waveform.numel() == 0:
        raise AudioFileError(f"{label}: no samples between {start or 0.0} s and {stop} s")
    if not torch.isfinite(waveform).all():
        raise AudioFileError(f"{label}: NaN or infinite samples")
    return waveform[None]


def resample(waveform: torch.Tensor, orig_rate: int, new_rate: int) -> torch.Tensor:
    """
    Resamples `[..., T]` to `[..., ceil(T * new_rate / orig_rate)]` as `torchaudio.functional.resample` does.

    Pairs of rates with a small common divisor (22051 to 16000 Hz) would cost torchaudio gigabytes for one kernel per
    phase; for them the same windowed sinc is evaluated sample by sample.

    Raises:
        `ValueError`: a rate is out of range.
    """
    _check_rate(orig_rate, "orig_rate")
    _check_rate(new_rate, "new_rate")
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    if orig == new:
        return waveform
    if new * (orig + 2 * _half_width(orig, new)) <= _MAX_KERNEL:
        return torchaudio.functional.resample(
            waveform, orig_rate, new_rate, lowpass_filter_width=_LOWPASS_WIDTH, rolloff=_ROLLOFF
        )
    return _resample_by_sample(waveform, orig, new)


def write_audio(path: "str | os.PathLike", waveform: "torch.Tensor | np.ndarray", sampling_rate: int) -> None:
    """
    Writes a mono waveform, all of it or nothing: a temporary file beside `path` is moved into place at the end.

    The suffix gives the format (`WRITE_FORMATS`). Lossless ones hold 16-bit PCM: samples outside -1..1 are clipped,
    and `load_audio` gives back what was written to within half a step (2^-16).

    Args:
        path (`str` or `os.PathLike`): File to write or replace; its folder must exist.
        waveform (`torch.Tensor` or `np.ndarray`): `[T]` or `[1, T]`, floating point in -1..1, or int16.
        sampling_rate (`int`): Rate in Hz.

    Raises:
        `ValueError`: an argument is unusable (unknown suffix, wrong rank or dtype, no, NaN or infinite samples, a rate
            the format does not have).
        `AudioFileError`: the file cannot be written.
    """
    path = Path(path)
    _check_rate(sampling_rate)
    if path.suffix.lower() not in WRITE_FORMATS:
        raise ValueError(f"`path` must end in one of {sorted(WRITE_FORMATS)}, got {str(path)!r}")
    container, subtype = WRITE_FORMATS[path.suffix.lower()]
    if not soundfile.check_format(container, subtype):
        raise ValueError(f"`path`: this libsndfile cannot write {container}/{subtype}, got {str(path)!r}")
    samples = _as_int16(waveform)

    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with (
            open(temporary, "xb") as file,
            soundfile.SoundFile(file, "w", sampling_rate, 1, subtype=subtype, format=container) as sound,
        ):
            # in blocks: libsndfile's Vorbis encoder overflows the stack on minutes of audio at once
            for begin in range(0, len(samples), _BLOCK):
                sound.write(samples[begin : begin + _BLOCK])
        os.replace(temporary, path)
    except (OSError, soundfile.SoundFileError) as error:
        raise AudioFileError(f"{path}: cannot be written at {sampling_rate} Hz ({_reason(error)})") from error
    finally:
        # A path below a file is NotADirectoryError here too, and the first error is the one to tell.
        with suppress(OSError):
            temporary.unlink()


def audio_files(folder: "str | os.PathLike") -> list[Path]:
    """
    Lists the files below a folder, at any depth, whose suffix is in `AUDIO_SUFFIXES` (case does not matter), sorted.

    Hidden files and folders (name starting with a dot) are left out.

    Raises:
        `AudioFileError`: `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioFileError(f"{folder}: not a folder")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _check_rate(rate: int, argument: str = "sampling_rate") -> None:
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"`{argument}` must be an integer of {MIN_RATE} to {MAX_RATE} Hz, got {rate!r}")


def _reason(error: Exception) -> str:
    """The cause alone, in one line: no path, which the caller names, and no repr of a file object."""
    if isinstance(error, soundfile.LibsndfileError):
        # what libsndfile says of an MP3 without a frame is "File does not exist or is not a regular file"
        text = "no frames" if error.code == 7 else error.error_string
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split()).removeprefix("Error : ").rstrip(".")


@contextmanager
def _opened(source: "str | os.PathLike | bytes | BinaryIO", name: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """Yields a seekable binary file at its start, and what to call it."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source), name or "<bytes>"
    elif isinstance(source, str | os.PathLike):
        label = name or os.fspath(source)
        try:
            file = open(source, "rb")  # noqa: SIM115
        except FileNotFoundError as error:
            raise AudioFileError(f"{label}: no such file") from error
        except IsADirectoryError as error:
            raise AudioFileError(f"{label}: a folder, not a file") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            raise AudioFileError(f"{label}: cannot be opened ({_reason(error)})") from error
        with file:
            if file.seekable():
                yield file, label
            else:
                yield io.BytesIO(file.read()), label
    else:
        label = name or _name_of(source)
        try:
            is_text = isinstance(source.read(0), str)
        except AttributeError as error:
            kind = type(source).__name__
            raise ValueError(f"`source` must be a path, bytes or a binary file, got {kind}") from error
        if is_text:
            raise ValueError(f"`source` must be open in binary mode, {label} is open as text")
        file = source if source.seekable() else io.BytesIO(source.read())
        file.seek(0)
        yield file, label


def _name_of(file: BinaryIO) -> str:
    try:
        return str(file.name)
    except AttributeError:  # `BytesIO` and others have none
        return "<file>"


def check_complete(file: BinaryIO, label: str) -> None:
    """
    Compares what the container declares with the bytes there are: libsndfile quietly reads what is left.

    Args:
        file (binary file): Seekable; left at its start.
        label (`str`): What to call it in errors.

    Raises:
        `AudioFileError`: it is shorter than it declares.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic in (b"RIFF", b"RIFX", b"RF64"):
        end = _riff_end(file, size, "big" if magic == b"RIFX" else "little")
    elif magic == b"FORM":
        end = _chunk_end(file, size, b"SSND", "big")
    elif magic == b"riff":
        end = _w64_end(file, size)
    elif magic == b".snd":
        header = int.from_bytes(file.read(4), "big")
        length = int.from_bytes(file.read(4), "big")
        end = 0 if length == 0xFFFF_FFFF else header + length
    elif magic == b"OggS":
        end = _ogg_end(file, size)
    elif magic == b"\x1a\x45\xdf\xa3":
        file.seek(0)
        end = _matroska_end(file)
    elif magic == b"caff":
        end = _caf_end(file, size)
    else:  # FLAC is caught while decoding, MP3 as far as its header says how long it is
        end = 0
    file.seek(0)
    if end > size:
        raise AudioFileError(f"{label}: truncated ({size} bytes, its header declares at least {end})")


def declared_length(file: BinaryIO) -> tuple[int, int] | None:
    """
    Length and rate of a file by its header alone.

    Args:
        file (binary file): Seekable, at its start.

    Returns:
        `tuple[int, int]`: Samples and their rate in Hz; `None` where only decoding tells (a file that libsndfile cannot
        read, an MP3 whose first frame does not say how many follow), or the file is no audio.
    """
    try:
        with soundfile.SoundFile(_unnamed(file)) as sound:
            length, rate, container = sound.frames, sound.samplerate, sound.format
    except soundfile.SoundFileError:
        return None
    return None if container in _MP3_FORMATS and not _has_xing(file) else (length, rate)


def _unnamed(file: BinaryIO) -> SimpleNamespace:
    """The file without its name, as soundfile takes a name in .raw for headerless samples."""
    return SimpleNamespace(seek=file.seek, tell=file.tell, read=file.read)


def _chunk_end(file: BinaryIO, size: int, wanted: bytes, order: str) -> int:
    """Where the chunk `wanted` of a RIFF or AIFF file ends as declared, or the chunk that leads out of the file.

    0 if it has no such chunk: libsndfile has its own words for that.
    """
    position = 12
    while position < size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], order)
        if len(header) < 8 or header[:4] == bytes(4):
            return 0
        if header[:4] == wanted:
            return position + 8 + length
        position += 8 + length + length % 2
    return position if position > size + 1 else 0  # 1: a pad byte that some writers leave out


def _riff_end(file: BinaryIO, size: int, order: str) -> int:
    file.seek(12)
    if file.read(4) != b"ds64":
        end = _chunk_end(file, size, b"data", order)
        return 0 if end >= _STREAMED else end
    # RF64: the data chunk declares 0xFFFFFFFF, its true size is here
    file.seek(28)
    length = int.from_bytes(file.read(8), "little")
    end = _chunk_end(file, size, b"data", order)
    return end - 0xFFFF_FFFF + length if end >= 0xFFFF_FFFF else end


def _w64_end(file: BinaryIO, size: int) -> int:
    position = 40
    while position < size:
        file.seek(position)
        header = file.read(24)
        length = int.from_bytes(header[16:], "little")  # counts its own header
        if len(header) < 24 or length < 24:
            return 0
        if header[:16] == b"data" + _W64_GUID:
            return position + length
        position += length + -length % 8
    return position if position > size + 7 else 0


def _caf_end(file: BinaryIO, size: int) -> int:
    position = 8
    while position < size:
        file.seek(position)
        header = file.read(12)
        length = int.from_bytes(header[4:], "big", signed=True)  # -1: unknown
        if len(header) < 12 or length < 0 or header[:4] == bytes(4):
            return 0
        position += 12 + length
        if header[:4] == b"data":
            return position
    return position if position > size else 0


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment, the one element after the EBML header, ends."""
    for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        position = file.tell()
        head = file.read(12)
        if len(head) < 12 or head[:4] != identifier or head[4] == 0:
            return 0
        width = 9 - head[4].bit_length()  # bytes that hold the length; leading zeros of the first say how many
        length = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
        if length == (1 << 7 * width) - 1:  # streamed, length unknown
            return 0
        file.seek(position + 4 + width + (length if identifier[0] == 0x1A else 0))
    return file.tell() + length


def _ogg_end(file: BinaryIO, size: int) -> int:
    """Where the last page ends: Ogg declares no length, but a cut nearly always falls inside a page."""
    window = min(size, 1 << 17)  # a page has at most 65307 bytes
    file.seek(size - window)
    tail = file.read(window)
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return size + 1
    return size - len(page) + 27 + page[26] + sum(page[27 : 27 + page[26]])


def _pyav_demuxer(head: bytes) -> str | None:
    """
    FFmpeg's name of a container that libsndfile cannot read. FFmpeg is let near no other: it would take some of anything
    for audio, and playlists lead elsewhere.
    """
    if head[4:8] == b"ftyp":
        return "mp4"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 or head.startswith(b"ADIF"):
        return "aac"
    magics = {b"\x1a\x45\xdf\xa3": "matroska", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"#!AMR": "amr"}
    return next((name for magic, name in magics.items() if head.startswith(magic)), None)


def _decode_with_pyav(
    file: BinaryIO, label: str, demuxer: str, sampling_rate: int, stop: float | None
) -> tuple[np.ndarray, int, int]:
    """Returns mono `[T]` from the beginning to what `stop` depends on, its rate, and how much of the file that is."""
    try:
        import av
    except ImportError as error:
        raise AudioFileError(
            f"{label}: this format is read by PyAV, which is not installed: pip install 'hf-affectcodec[eval]'"
        ) from error
    file.seek(0)
    try:
        with av.open(file, format=demuxer) as container:
            if not container.streams.audio:
                raise AudioFileError(f"{label}: has no audio")
            stream = container.streams.audio[0]
            rate = stream.rate
            _check_file_rate(rate, label)
            _, end = _source_range(rate, sampling_rate, None, stop)
            # One rate and one sample format, should they change on the way; channels stay, to be averaged.
            planar = av.AudioResampler(format="fltp", rate=rate)
            blocks, count, wanted = [], 0, math.inf if end is None else end
            frames = container.decode(stream)
            while count < wanted and (frame := next(frames, None)) is not None:
                for part in planar.resample(frame):
                    blocks.append(part.to_ndarray().mean(0))
                    count += len(blocks[-1])
            # Microseconds; only these containers declare it, elsewhere it is an estimate by the bitrate.
            declared = container.duration if demuxer in ("mp4", "matroska") else None
    except av.FFmpegError as error:
        raise AudioFileError(f"{label}: not audio, or damaged ({error.strerror})") from error
    # a tenth of a second: durations in headers count encoder delay and whole frames
    if count < wanted and declared is not None and count / rate < declared / 1e6 - 0.1:
        raise AudioFileError(f"{label}: truncated ({count / rate:.3f} s of the {declared / 1e6:.3f} s it declares)")
    waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return waveform if end is None else waveform[:end], rate, count


def _decode_with_soundfile(
    file: BinaryIO, label: str, sampling_rate: int, start: float | None, stop: float | None
) -> tuple[np.ndarray, int, int, int]:
    """Returns mono `[T]` around the wanted part, its rate, the index of its first sample, and the file's length."""
    try:
        # without its Xing frame an MP3's length is a guess; with it, it may be off by the encoder's padding
        mp3_slack = 2304 if _has_xing(file) else math.inf
        with _SequentialFile(_unnamed(file)) as sound:
            rate, is_mp3 = sound.samplerate, sound.format in _MP3_FORMATS
            _check_file_rate(rate, label)
            begin, end = _source_range(rate, sampling_rate, start, stop)
            if begin >= sound.frames:
                return np.zeros(0, np.float32), rate, 0, sound.frames
            if begin:
                run_up = min(round(_MP3_RUN_UP * rate), begin) if is_mp3 else 0
                sound.seek(begin - run_up)
                if run_up:
                    sound.read(run_up)
            blocks, count, wanted = [], 0, math.inf if end is None else end - begin
            while count < wanted:
                block = sound.read(
                    int(min(max(_BLOCK // sound.channels, 1), wanted - count)), dtype="float32", always_2d=True
                )
                if len(block) == 0:
                    break
                blocks.append(block.mean(1) if sound.channels > 1 else block[:, 0])
                count += len(block)
            total, slack = sound.frames, mp3_slack if is_mp3 else 0
    except soundfile.SoundFileError as error:
        raise AudioFileError(f"{label}: not audio, or damaged ({_reason(error)})") from error
    if begin + count < min(total, math.inf if end is None else end) - slack:
        raise AudioFileError(f"{label}: truncated ({begin + count} of {total} declared samples)")
    waveform = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return waveform, rate, begin, total if end is not None and count == wanted else begin + count


def _has_xing(file: BinaryIO) -> bool:
    """Whether an MP3 begins with the frame that says how many there are; leaves the file at its start."""
    file.seek(0)
    head = file.read(10)
    size = 0
    if head[:3] == b"ID3":
        size = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(size)
    frame = file.read(256)
    file.seek(0)
    return b"Xing" in frame or b"Info" in frame


def _check_file_rate(rate: int, label: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioFileError(f"{label}: declares {rate} Hz; {MIN_RATE} to {MAX_RATE} are read")


def _half_width(orig: int, new: int) -> int:
    """Reach of the resampling filter to either side, in source samples; `orig` and `new` have no common divisor."""
    return math.ceil(_LOWPASS_WIDTH * orig / (min(orig, new) * _ROLLOFF))


def _source_range(rate: int, sampling_rate: int, start: float | None, stop: float | None) -> tuple[int, int | None]:
    """Source samples that the crop depends on; the first falls on a sample of both rates, so that phases agree."""
    divisor = math.gcd(rate, sampling_rate)
    orig, new = rate // divisor, sampling_rate // divisor
    margin = 0 if orig == new else _half_width(orig, new) + 1
    first = round((start or 0.0) * sampling_rate) * orig // new
    begin = max(first - margin, 0) // orig * orig
    end = None if stop is None else -(-round(stop * sampling_rate) * orig // new) + margin
    return begin, end


def _resample_by_sample(waveform: torch.Tensor, orig: int, new: int) -> torch.Tensor:
    """The windowed sinc of torchaudio, `[..., T]` to `[..., ceil(T * new / orig)]`, with no table of phases."""
    base = min(orig, new) * _ROLLOFF
    half = _half_width(orig, new)
    length = waveform.shape[-1]
    padded = torch.nn.functional.pad(waveform, (half, half + 1))
    taps = torch.arange(-half, half + 2)  # [K]
    pieces = []
    for indices in torch.arange(-(-length * new // orig)).split(8192):
        whole = indices * orig // new  # source sample at or before each output sample
        phase = (indices * orig % new).double() / new
        time = (taps - phase[:, None]) * (base / orig)  # [N, K] in lobes
        time = time.clamp(-_LOWPASS_WIDTH, _LOWPASS_WIDTH)
        kernel = torch.sinc(time) * torch.cos(time * (math.pi / _LOWPASS_WIDTH / 2)) ** 2 * (base / orig)
        # the last taps reach one past the padding when phase is 0, where their weight is 0
        gathered = padded[..., (whole[:, None] + taps + half).clamp(max=padded.shape[-1] - 1)]
        pieces.append((gathered * kernel.to(waveform.dtype)).sum(-1))
    return torch.cat(pieces, -1) if pieces else waveform


def _as_int16(waveform: "torch.Tensor | np.ndarray") -> np.ndarray:
    """Checks a waveform to be written; returns it as int16 `[T]`."""
    samples = waveform.detach().cpu() if isinstance(waveform, torch.Tensor) else waveform
    if isinstance(samples, torch.Tensor):
        samples = (samples.float() if samples.dtype == torch.bfloat16 else samples).numpy()
    if not isinstance(samples, np.ndarray):
        raise ValueError(f"`waveform` must be a tensor or an array, got {type(waveform).__name__}")
    if samples.ndim == 2 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 1:
        raise ValueError(f"`waveform` must have shape [T] or [1, T], got {list(samples.shape)}")
    if samples.size == 0:
        raise ValueError("`waveform` has no samples")
    if samples.dtype == np.int16:
        return samples
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"`waveform` must be floating point or int16, got {samples.dtype}")
    if not np.isfinite(samples).all():
        raise ValueError("`waveform` has NaN or infinite samples")
    return np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)
