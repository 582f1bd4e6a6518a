"""
Single clips of a stream: their length from the header, their crops by seeking, from bytes, local files or the Hub.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from huggingface_hub.errors import HTTPError

from ..audio import AudioFileError, check_complete, declared_length, load_audio
from .error_text import first_line


@dataclass
class StreamedClip:
    """
    A clip whose header was read.

    Attributes:
        name (`str`): What errors call it.
        file (`bytes` or `str`): Its content, a local path, or a URL that `fsspec` opens.
        sampling_rate (`int`): Rate of its crops in Hz.
        length (`int`): Samples of the whole clip at that rate.
        waveform (`np.ndarray`, *optional*): `[T]` int16, only where the file cannot be sought.
    """

    name: str
    file: "bytes | str"
    sampling_rate: int
    length: int
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
            check_complete(stream, name)
            declared = declared_length(stream)
        if declared is not None:
            length, rate = declared
            if length == 0:
                raise AudioFileError(f"{name}: no samples")
            return cls(name, file, sampling_rate, -(-length * sampling_rate // rate))
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
        rate = self.sampling_rate
        with opened(self.file, self.name) as stream:
            return load_audio(stream, rate, start / rate, stop / rate, name=self.name)[0].numpy()


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
                    raise OSError(first_line(guarded.error)) from guarded.error
        except FileNotFoundError as error:
            raise AudioFileError(f"{name}: no such file") from error
        except AudioFileError as error:
            if guarded is None or guarded.error is None:
                raise
            raise ConnectionError(f"{name}: cannot be fetched ({first_line(guarded.error)})") from error
        except (OSError, HTTPError) as error:
            raise ConnectionError(f"{name}: cannot be fetched ({first_line(error)})") from error


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
