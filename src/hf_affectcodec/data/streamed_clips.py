"""
Single clips of a stream: their length from the header, their crops by seeking, from bytes, local files or the Hub.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import soundfile
from huggingface_hub.errors import HTTPError

from ..audio import AudioFileError, _check_complete, _has_xing, load_audio


# Seconds decoded before a crop of an MP3 and dropped: its frames lean on bits of those before, up to 255 bytes back, which
# is ten frames of the thinnest stream; a decoder that starts at the crop gives silence instead.
_MP3_RUN_UP = 0.5


@dataclass
class StreamedClip:
    """
    A clip whose header was read.

    Attributes:
        name (`str`): What errors call it.
        file (`bytes` or `str`): Its content, a local path, or a URL that `fsspec` opens.
        sampling_rate (`int`): Rate of its crops in Hz.
        length (`int`): Samples of the whole clip at that rate.
        run_up (`int`, *optional*, defaults to 0): Samples at that rate to decode before a crop.
        waveform (`np.ndarray`, *optional*): `[T]` int16, only where the file cannot be sought.
    """

    name: str
    file: "bytes | str"
    sampling_rate: int
    length: int
    run_up: int = 0
    waveform: np.ndarray | None = None

    @classmethod
    def open(cls, audio: "dict | None", sampling_rate: int, name: str) -> "StreamedClip":
        """
        Reads the header of `audio`, a value of a `datasets` column that is not decoded: `{"bytes", "path"}`. Decodes the
        whole file where libsndfile cannot read it (AAC and others) or its header does not say how long it is (some MP3).

        Raises:
            `AudioFileError`: it cannot be read.
            `ConnectionError`: it is remote and could not be fetched.
        """
        if audio is None or (audio["bytes"] is None and audio["path"] is None):
            raise AudioFileError(f"{name}: no audio")
        file = audio["path"] if audio["bytes"] is None else audio["bytes"]
        with opened(file, name) as stream:
            _check_complete(stream, name)
            length, run_up = _read_header(stream, sampling_rate)
        if length == 0:
            raise AudioFileError(f"{name}: no samples")
        if length is not None:
            return cls(name, file, sampling_rate, length, run_up)
        with opened(file, name) as stream:
            waveform = load_audio(stream, sampling_rate, name=name)[0]
        whole = (waveform * 32768).round().clamp(-32768, 32767).short().numpy()
        return cls(name, b"", sampling_rate, len(whole), waveform=whole)

    def crop(self, start: int, num_samples: int) -> np.ndarray:
        """
        Samples `start` to `start + num_samples` of the clip or up to its end, `[n]` float32: the slice of what
        [`load_audio`] makes of the whole file.

        Raises:
            `AudioFileError`, `ConnectionError`: as `open`.
        """
        stop = min(start + num_samples, self.length)
        if self.waveform is not None:
            return self.waveform[start:stop].astype(np.float32) / 32768
        rate, begin = self.sampling_rate, max(start - self.run_up, 0)
        with opened(self.file, self.name) as stream:
            crop = load_audio(stream, rate, begin / rate, stop / rate, name=self.name)[0]
        return crop[start - begin :].numpy()


@contextmanager
def opened(file: "bytes | str", name: str) -> Iterator[BinaryIO]:
    """
    A clip's file for reading: its bytes, a local file, or a remote one (`hf://...`) that is read by ranges.

    Raises:
        `AudioFileError`: there is no such file.
        `ConnectionError`: a remote file could not be read; that is no fault of the clip.
    """
    if isinstance(file, bytes):
        yield io.BytesIO(file)
    elif "://" not in file:
        try:
            local = open(file, "rb")  # noqa: SIM115
        except OSError as error:
            raise AudioFileError(f"{name}: cannot be opened ({error.strerror})") from error
        with local:
            yield local
    else:
        import fsspec

        guarded = None
        try:
            with fsspec.open(file, "rb") as remote:
                guarded = _Remote(remote)
                yield guarded
                if guarded.error is not None:  # libsndfile took a read that raised for the end of the file
                    raise OSError(_first_line(guarded.error)) from guarded.error
        except FileNotFoundError as error:
            raise AudioFileError(f"{name}: no such file") from error
        except AudioFileError as error:
            if guarded is None or guarded.error is None:
                raise
            raise ConnectionError(f"{name}: cannot be fetched ({_first_line(guarded.error)})") from error
        except (OSError, HTTPError) as error:
            raise ConnectionError(f"{name}: cannot be fetched ({_first_line(error)})") from error


class _Remote:
    """A binary file that remembers what went wrong in it."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        try:
            return self.file.read(size)
        except Exception as error:
            self.error = error
            raise


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_header(stream: BinaryIO, sampling_rate: int) -> tuple[int | None, int]:
    """Samples at `sampling_rate`, `None` where the file must be decoded to know, or is none; and the run-up to a crop."""
    unnamed = SimpleNamespace(seek=stream.seek, tell=stream.tell, read=stream.read)  # a name in .raw would mislead
    try:
        with soundfile.SoundFile(unnamed) as sound:
            frames, rate, container = sound.frames, sound.samplerate, sound.format
    except soundfile.SoundFileError:
        return None, 0
    mp3 = container in ("MP3", "MPEG")
    if mp3 and not _has_xing(stream):
        return None, 0
    return -(-frames * sampling_rate // rate), round(_MP3_RUN_UP * sampling_rate) if mp3 else 0
