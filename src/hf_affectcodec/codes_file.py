"""Codes on disk: one safetensors file a clip, with what decoding must know beside them.

A file holds one tensor, `audio_codes` int16 `[Q, F]`, and one metadata entry, `affectcodec_codes`: JSON with the
fields of [`AudioCodes`], a format version and a SHA-256 over all of it. One entry, because safetensors writes several
in random order and equal codes would not give equal files.
"""

import hashlib
import json
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save


FORMAT_VERSION = 1
CODES_SUFFIX = ".safetensors"
MAX_CODEBOOK_SIZE = 1 << 15  # int16

_TENSOR, _METADATA = "audio_codes", "affectcodec_codes"
_INTEGERS = ("sampling_rate", "hop_length", "num_samples", "codebook_size")
_STRINGS = ("model", "codebooks_sha256")


class CodesFileError(ValueError):
    """A file that gives no usable codes. The message is one line that starts with the name of the file."""


@dataclass(frozen=True)
class AudioCodes:
    """
    The codes of one clip.

    Args:
        audio_codes (`torch.ShortTensor` of shape `(num_quantizers, frames)`): Codes, 0..`codebook_size` - 1.
        num_samples (`int`): Length of the clip; `frames * hop_length` less what the last frame was padded with.
        sampling_rate (`int`): In Hz.
        hop_length (`int`): Samples per frame.
        codebook_size (`int`): Entries of each codebook.
        model (`str`): What to call the model that made them: a Hub id with its revision, or the name of a folder.
        codebooks_sha256 (`str`): SHA-256 of that model's codebooks; to others the codes mean nothing.
    """

    audio_codes: torch.Tensor
    num_samples: int
    sampling_rate: int
    hop_length: int
    codebook_size: int
    model: str
    codebooks_sha256: str

    def __post_init__(self):
        for name in _INTEGERS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}")
        for name in _STRINGS:
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"`{name}` must be a string, got {type(getattr(self, name)).__name__}")
        if self.codebook_size > MAX_CODEBOOK_SIZE:
            raise ValueError(f"`codebook_size` must be at most {MAX_CODEBOOK_SIZE}, got {self.codebook_size}")
        codes = self.audio_codes
        if not isinstance(codes, torch.Tensor) or codes.dtype != torch.int16:
            found = codes.dtype if isinstance(codes, torch.Tensor) else type(codes).__name__
            raise ValueError(f"`audio_codes` must be an int16 tensor, got {found}")
        if codes.dim() != 2 or codes.numel() == 0:
            raise ValueError(f"`audio_codes` must have shape (num_quantizers, frames), got {tuple(codes.shape)}")
        frames = -(-self.num_samples // self.hop_length)
        if codes.shape[1] != frames:
            raise ValueError(
                f"`audio_codes` must have {frames} frames for {self.num_samples} samples, got {codes.shape[1]}"
            )
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codebook_size:
            raise ValueError(f"`audio_codes` must lie in 0..{self.codebook_size - 1}, got {low}..{high}")

    @property
    def num_quantizers(self) -> int:
        """Codebooks used."""
        return self.audio_codes.shape[0]

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.num_samples / self.sampling_rate

    @property
    def bitrate(self) -> float:
        """Bits per second that the codes need: `frame rate x num_quantizers x bits per code`."""
        return self.sampling_rate / self.hop_length * self.num_quantizers * (self.codebook_size - 1).bit_length()


def save_codes(path: "str | os.PathLike", codes: AudioCodes) -> None:
    """
    Writes codes, all of them or nothing: a temporary file beside `path` is moved into place at the end. Equal codes
    give equal files.

    Args:
        path (`str` or `os.PathLike`): File to write or replace; its folder must exist.
        codes ([`AudioCodes`]): What to write.

    Raises:
        `CodesFileError`: The file cannot be written.
    """
    path = Path(path)
    tensor = codes.audio_codes.detach().cpu().contiguous()
    fields = {"version": FORMAT_VERSION} | {name: getattr(codes, name) for name in _INTEGERS + _STRINGS}
    fields["sha256"] = _checksum(fields, tensor)
    content = save({_TENSOR: tensor}, metadata={_METADATA: json.dumps(fields, sort_keys=True)})
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise CodesFileError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def load_codes(path: "str | os.PathLike") -> AudioCodes:
    """
    Reads what [`save_codes`] wrote.

    Raises:
        `CodesFileError`: The file is missing, truncated, altered by a single bit, or is not a file of codes.
    """
    path = Path(path)
    if not path.is_file():
        raise CodesFileError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        with safe_open(path, framework="pt") as file:
            fields = _fields(file.metadata())
            names = list(file.keys())
            if names != [_TENSOR]:
                raise ValueError(f"it must hold the tensor `{_TENSOR}` alone, got {sorted(names)[:4]}")
            stored = file.get_slice(_TENSOR)
            if stored.get_dtype() != "I16" or len(stored.get_shape()) != 2:
                raise ValueError(f"`{_TENSOR}` must be I16 [Q, F], got {stored.get_dtype()} {stored.get_shape()}")
            tensor = file.get_tensor(_TENSOR)
        checksum = fields.pop("sha256")
        if checksum != _checksum(fields, tensor):
            raise ValueError("damaged (its checksum differs)")
        del fields["version"]
        return AudioCodes(audio_codes=tensor, **fields)
    except SafetensorError as error:
        raise CodesFileError(f"{path}: not a safetensors file, or truncated ({_line(error)})") from error
    except OSError as error:
        raise CodesFileError(f"{path}: cannot be read ({error.strerror or _line(error)})") from error
    except ValueError as error:
        raise CodesFileError(f"{path}: {_line(error)}") from error


def _fields(metadata: "dict[str, str] | None") -> dict:
    """What is beside the codes: every field and no other, of a version that we know."""
    if metadata is None or _METADATA not in metadata:
        raise ValueError(f"a safetensors file, but not one of codes (no `{_METADATA}` in its metadata)")
    try:
        fields = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{_METADATA}` in its metadata is not JSON") from error
    version = fields.get("version") if isinstance(fields, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"codes of format version {version!r}; version {FORMAT_VERSION} is read")
    expected = {"version", "sha256", *_INTEGERS, *_STRINGS}
    if fields.keys() != expected:
        raise ValueError(f"`{_METADATA}` in its metadata lacks or adds {sorted(fields.keys() ^ expected)[:4]}")
    return fields


def _checksum(fields: dict, tensor: torch.Tensor) -> str:
    digest = hashlib.sha256(json.dumps([fields, list(tensor.shape)], sort_keys=True).encode())
    digest.update(tensor.numpy().astype("<i2", copy=False).tobytes())
    return digest.hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
