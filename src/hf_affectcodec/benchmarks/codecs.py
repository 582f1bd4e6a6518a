"""
Codecs under test, behind one small protocol: a waveform at 16 kHz goes in, the decoded waveform and the number of bits
that stood between come out.
"""

import functools
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hf_affectcodec.audio import resample


SAMPLING_RATE = 16000  # Hz, of what goes into every codec and of what comes out


class Codec(Protocol):
    """
    Attributes:
        name (`str`): What the system is called in a table.
        fingerprint (`str`): Changes whenever the codec's output may change (weights, library version); rows measured
            under another fingerprint are not reused.
    """

    name: str
    fingerprint: str

    def __call__(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        """
        Args:
            waveform (`np.ndarray` [T]): float32 at 16 kHz, full scale ±1.

        Returns:
            `tuple[np.ndarray, int]`: The decoded waveform [T] (float32, 16 kHz, the codec's own delay taken out) and
            the number of bits of its code.

        Raises:
            ValueError: The codec cannot code this clip.
        """
        ...


class Original:
    """The clip itself, as 16-bit PCM (256 kbps): the ceiling of every metric on these clips."""

    name = "original"
    fingerprint = "pcm-16"

    def __call__(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        return waveform.copy(), 16 * waveform.size


# Name in a table -> FFmpeg's encoder, decoder and encoder options. "voip" is libopus' own setting for speech.
PYAV_CODECS = {
    "opus": ("libopus", "libopus", {"application": "voip"}),
    "mp3": ("libmp3lame", "mp3float", {}),
    "aac": ("aac", "aac", {}),
}
PYAV_NAME = re.compile(rf"({'|'.join(PYAV_CODECS)})-(\d+(?:\.\d+)?)")


class PyAVCodec:
    """
    Opus, MP3 or AAC by the FFmpeg inside PyAV, in memory and without a container.

    Bits are counted in the packets' payloads; what a container would add (Ogg pages, MP4 boxes) is not. MP3 frames and
    Opus packets carry their own headers, which count; AAC packets are bare (no ADTS header). Measured and nominal
    bitrates differ: Opus is at its default variable bitrate (20 ms frames), MP3 is at the nearest bitrate that MPEG-2
    layer III has (8, 16, 24, ... kbps at 16 kHz) and may use its bit reservoir, AAC misses low targets.

    The encoder's delay is known from the packets' time stamps and taken out.

    Args:
        codec (`str`): `"opus"`, `"mp3"` or `"aac"`.
        bitrate (`int`): Nominal bitrate in bits per second.
    """

    def __init__(self, codec: str, bitrate: int):
        try:
            import av
        except ImportError as error:
            raise ImportError("This codec needs the package `av`: pip install 'hf-affectcodec[eval]'") from error
        if codec not in PYAV_CODECS:
            raise ValueError(f"`codec` must be one of {sorted(PYAV_CODECS)}, got {codec!r}")
        if bitrate <= 0:
            raise ValueError(f"`bitrate` must be positive, in bits per second, got {bitrate}")
        self.codec, self.bitrate = codec, bitrate
        self.encoder, self.decoder, self.options = PYAV_CODECS[codec]
        self.name = f"{codec}-{bitrate / 1000:g}"
        self.fingerprint = (
            f"{self.encoder} {bitrate} {self.options} FFmpeg {av.ffmpeg_version_info} av {av.__version__}"
        )

    @classmethod
    def from_name(cls, name: str) -> "PyAVCodec":
        """
        Args:
            name (`str`): Codec and nominal kbps: `"opus-6"`, `"mp3-8"`, `"aac-12.5"`.

        Raises:
            ValueError: The name has another form.
        """
        match = PYAV_NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"`name` must be one of {sorted(PYAV_CODECS)}, a hyphen and kbps (opus-6), got {name!r}")
        return cls(match[1], round(float(match[2]) * 1000))

    def __call__(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        import av

        try:
            packets, extradata = self._encode(waveform)
            decoded = self._decode(packets, extradata)
        except av.FFmpegError as error:
            raise ValueError(f"`waveform`: {self.name} cannot code this clip ({error})") from error
        if decoded.size < waveform.size:
            raise ValueError(f"`waveform`: {self.name} gave {decoded.size} of {waveform.size} samples back")
        return decoded[: waveform.size], 8 * sum(packet.size for packet in packets)

    def _encode(self, waveform: np.ndarray):
        """Returns the packets and the decoder's set-up bytes (None for MP3)."""
        import av

        # One channel: packed ("flt") and planar ("fltp") samples are the same bytes; encoders insist on the name.
        sample_format = "flt" if self.encoder == "libopus" else "fltp"
        encoder = av.CodecContext.create(self.encoder, "w")
        encoder.sample_rate, encoder.layout, encoder.format = SAMPLING_RATE, "mono", sample_format
        encoder.time_base = Fraction(1, SAMPLING_RATE)
        encoder.bit_rate, encoder.options = self.bitrate, self.options
        encoder.open()
        packets = []
        for start in range(0, waveform.size, encoder.frame_size):
            samples = np.ascontiguousarray(waveform[None, start : start + encoder.frame_size], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format=sample_format, layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLING_RATE, encoder.time_base, start
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        return packets, encoder.extradata

    def _decode(self, packets, extradata: bytes | None) -> np.ndarray:
        """Returns [T'] at 16 kHz that starts at time 0 of what was encoded."""
        import av

        decoder = av.CodecContext.create(self.decoder, "r")
        if extradata is not None:
            decoder.extradata = extradata
        decoder.sample_rate, decoder.layout = SAMPLING_RATE, "mono"
        # libopus decodes to 16-bit integers unless asked. With "skip_manual" FFmpeg drops no samples by itself, so
        # that the first sample of the first frame is at the (negative) time stamp of the first packet.
        decoder.options = {"request_sample_fmt": "flt" if self.decoder == "libopus" else "fltp"}
        decoder.flags2 |= int(av.codec.context.Flags2.skip_manual)
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        if any(frame.format.name not in ("flt", "fltp") for frame in frames):
            raise ValueError(f"`waveform`: {self.decoder} decodes to {frames[0].format.name}, not to floats")
        if not frames:
            return np.zeros(0, dtype=np.float32)
        decoded = torch.from_numpy(np.concatenate([frame.to_ndarray()[0] for frame in frames]))
        decoded = resample(decoded, frames[0].sample_rate, SAMPLING_RATE).numpy()
        delay = -round(packets[0].pts * packets[0].time_base * SAMPLING_RATE)
        return decoded[delay:]


class AudioTokenizationCodec:
    """
    Any audio-tokenisation model of transformers with its feature extractor. Clips are coded one by one, without
    padding other than the extractor's to whole frames. Bits are `frames x codebooks x log2(codebook_size)`; nothing is
    saved by entropy coding, and the number of frames itself is not counted.

    A model with another sampling rate gets the clip resampled to it and its output resampled back.

    Args:
        model (`PreTrainedModel`): With `encode(input_values [1, 1, T], padding_mask)`, whose output has
            `audio_codes [1, Q, F]` (EnCodec: `[1, 1, Q, F]`), and `decode(audio_codes=...)`, whose output has
            `audio_values`. Of the extractor's outputs those are passed on that `encode` names. Put into evaluation mode.
        feature_extractor (`FeatureExtractionMixin`): Its `sampling_rate` is taken for the model's, in and out.
        name (`str`): Name in a table.
        device (`str`, *optional*, defaults to `"cpu"`): Where the model runs.
        encode_arguments (`dict`, *optional*): Further arguments of `encode`: `{"bandwidth": 6.0}` for EnCodec and
            X-Codec, `{"num_quantizers": 8}` for Mimi.

    Raises:
        ValueError: The configuration names neither `codebook_size` nor `quantization_levels`, or `encode` takes no such
            argument.
    """

    def __init__(self, model, feature_extractor, name: str, device: str = "cpu", encode_arguments: dict | None = None):
        self.model = model.eval().to(device)
        self.feature_extractor = feature_extractor
        self.name = name
        self.device = device
        self.encode_arguments = encode_arguments or {}
        config = model.config
        if hasattr(config, "codebook_size"):
            self.codebook_size = config.codebook_size
        elif hasattr(config, "quantization_levels"):  # finite scalar quantization: one code for all dimensions
            self.codebook_size = math.prod(config.quantization_levels)
        else:
            raise ValueError(f"`model`: {type(config).__name__} has no `codebook_size` and no `quantization_levels`")
        if self.encode_arguments:
            unknown = sorted(self.encode_arguments.keys() - inspect.signature(model.encode).parameters.keys())
            if unknown:
                raise ValueError(f"`encode_arguments`: {type(model).__name__}.encode takes no {unknown[0]!r}")
        self.bits_per_code = math.log2(self.codebook_size)
        self.fingerprint = fingerprint(model) + (f" {self.encode_arguments}" if self.encode_arguments else "")

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        name: str,
        device: str = "cpu",
        encode_arguments: dict | None = None,
        revision: str = "main",
    ) -> "AudioTokenizationCodec":
        """
        Args:
            path (`str`): Directory or Hub id with a model and a feature extractor.
            name, device, encode_arguments: As above.
            revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit of a Hub id.

        Raises:
            ValueError: The checkpoint lacks weights, or as above.
        """
        from transformers import AutoFeatureExtractor, AutoModel

        from hf_affectcodec.teachers.frozen import load_frozen

        # Not AutoModelForAudioTokenization, whose list lacks EnCodec, Mimi and X-Codec.
        model = load_frozen(AutoModel, path, revision)
        extractor = AutoFeatureExtractor.from_pretrained(path, revision=revision)
        return cls(model, extractor, name, device, encode_arguments)

    @property
    def sampling_rate(self) -> int:
        """Of the model, in Hz."""
        return self.feature_extractor.sampling_rate

    @functools.cached_property
    def hop_length(self) -> int:
        """
        Samples a frame at the model's rate: what the configuration says where the number of frames agrees, else what that
        number says (the configuration of `descript/dac_24khz` has 512 for 320).
        """
        config, rate = self.model.config, self.sampling_rate
        # Mimi has no `hop_length`, the others no `frame_size`.
        stated = int(config.frame_size if hasattr(config, "frame_size") else config.hop_length)
        short, long = (self.encode(np.zeros(seconds * rate, dtype=np.float32)).shape[1] for seconds in (1, 7))
        return stated if abs(long - short - 6 * rate / stated) <= 1 else round(6 * rate / (long - short))

    def _encode(self, samples: np.ndarray):
        """[T] at the model's rate to the extractor's and the model's outputs."""
        features = self.feature_extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt")
        features = features.to(self.device)
        accepted = inspect.signature(self.model.encode).parameters
        known = {key: value for key, value in features.items() if key in accepted}
        encoded = self.model.encode(**known, **self.encode_arguments)
        if any(scale is not None for scale in encoded.get("audio_scales") or ()):
            raise ValueError(f"`model`: {type(self.model).__name__} as configured decodes from scales too, not codes")
        codes = encoded.audio_codes
        if codes.ndim == 4 and len(codes) == 1:  # EnCodec: chunks first, and there is one
            codes = codes[0]
        if codes.ndim != 3 or codes.shape[0] != 1:
            raise ValueError(f"`model`: `audio_codes` must have shape [1, Q, F], got {list(codes.shape)}")
        return features, encoded, codes[0]

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """
        Args:
            samples (`np.ndarray` [T]): float32 at the model's `sampling_rate`.

        Returns:
            `np.ndarray` [Q, F]: Codes, int64.

        Raises:
            ValueError: The model cannot code this clip, or its codes are of another form.
        """
        return self._encode(samples)[2].cpu().numpy()

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        rate = self.sampling_rate
        samples = resample(torch.from_numpy(waveform).float(), SAMPLING_RATE, rate).numpy()
        features, encoded, codes = self._encode(samples)
        scales = {"audio_scales": encoded.audio_scales} if "audio_scales" in encoded else {}
        decoded = self.model.decode(audio_codes=encoded.audio_codes, **scales).audio_values.float().cpu().flatten()

        # A frame more or less at the end is padding; anything else is a wrong rate or a lost piece.
        num_frames = codes.shape[-1]
        slack = math.ceil(features["input_values"].shape[-1] / num_frames)
        if abs(decoded.numel() - samples.size) > slack:
            raise ValueError(f"`model`: {decoded.numel()} samples came back for {samples.size} (slack {slack})")
        decoded = resample(decoded, rate, SAMPLING_RATE).numpy()[: waveform.size]
        decoded = np.pad(decoded, (0, waveform.size - decoded.size))
        return decoded, math.ceil(num_frames * codes.shape[0] * self.bits_per_code)


SPEECHTOKENIZER_WEIGHTS = "speechtokenizer_hubert_avg/SpeechTokenizer.pt"


def load_speechtokenizer(
    source: "str | os.PathLike" = "fnlp/SpeechTokenizer",
    name: str = "speechtokenizer",
    device: str = "cpu",
    revision: str = "main",
    **config_changes,
) -> AudioTokenizationCodec:
    """
    The public SpeechTokenizer, by the network of [`AffectCodecModel`], which computes the same from its weights (see
    [`~hf_affectcodec.convert_speechtokenizer.from_speechtokenizer`]); its own package is not needed.

    Args:
        source (`str` or path, *optional*): Hub id with the authors' layout, or a checkpoint file.
        name, device: As in [`AudioTokenizationCodec`].
        revision (`str`, *optional*, defaults to `"main"`): Of the Hub repository.
        config_changes: Of the configuration, where the checkpoint is of another size than the public one.

    Raises:
        ValueError: The weights are not SpeechTokenizer's.
    """
    from huggingface_hub import hf_hub_download

    from hf_affectcodec import AffectCodecFeatureExtractor
    from hf_affectcodec.convert_speechtokenizer import from_speechtokenizer

    path = (
        source if Path(source).is_file() else hf_hub_download(str(source), SPEECHTOKENIZER_WEIGHTS, revision=revision)
    )
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model = from_speechtokenizer(weights, **{"guidance_sources": (), **config_changes})
    return AudioTokenizationCodec(model, AffectCodecFeatureExtractor(), name, device)


def fingerprint(model) -> str:
    """
    SHA-256 of a model's configuration, parameters and buffers, and the versions of torch and transformers. The model's
    own code does not enter: after a change of it that changes outputs, measure into another directory.
    """
    digest = hashlib.sha256(json.dumps(model.config.to_diff_dict(), sort_keys=True, default=str).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    return f"{digest.hexdigest()} {versions}"
