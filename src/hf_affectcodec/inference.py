"""A trained codec ready for single clips: what the command, the demonstration and the Spaces run."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig
from transformers.utils import logging

from .codes_file import AudioCodes
from .modeling.configuration_affectcodec import AffectCodecConfig
from .modeling.feature_extraction_affectcodec import AffectCodecFeatureExtractor
from .modeling.modeling_affectcodec import AffectCodecModel
from .shipped import pretrained_path
from .teachers.frozen import commit_of


# Longer clips go through in windows, so that memory does not grow with them.
LONG_SECONDS = 60.0


@dataclass(frozen=True)
class Codec:
    """
    A model, its feature extractor, and what files of codes say of it. [`load_codec`] makes one.

    Args:
        model ([`AffectCodecModel`]): In evaluation mode, float32.
        feature_extractor ([`AffectCodecFeatureExtractor`]): With the model's sampling rate and hop length.
        name (`str`): A Hub id with its revision, or the name of a folder.
        codebooks_sha256 (`str`): SHA-256 of the codebooks, float32 `[Q, K, C]`, little-endian.
        guidance_source (`str`, *optional*): What guides the encoder, `"self"` or `"none"`. Default: the model's own.
    """

    model: AffectCodecModel
    feature_extractor: AffectCodecFeatureExtractor
    name: str
    codebooks_sha256: str
    guidance_source: str | None = None

    @property
    def sampling_rate(self) -> int:
        """In Hz."""
        return self.model.config.sampling_rate

    @torch.inference_mode()
    def encode(self, waveform: torch.Tensor, num_quantizers: int | None = None) -> AudioCodes:
        """
        Args:
            waveform (`torch.Tensor` of shape `(1, samples)`): At the codec's sampling rate, at least one frame.
            num_quantizers (`int`, *optional*): How many codebooks to use. Default: all.

        Raises:
            `ValueError`: An argument is malformed.
        """
        inputs = self.feature_extractor(waveform, sampling_rate=self.sampling_rate, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        if waveform.shape[-1] > LONG_SECONDS * self.sampling_rate:
            encoded = self.model.encode_long(inputs["input_values"], num_quantizers, self.guidance_source)
        else:
            encoded = self.model.encode(**inputs, num_quantizers=num_quantizers, guidance_source=self.guidance_source)
        codes = encoded.audio_codes[0]
        return AudioCodes(
            audio_codes=codes.short().cpu(),
            num_samples=waveform.shape[-1],
            sampling_rate=self.sampling_rate,
            hop_length=self.model.hop_length,
            codebook_size=self.model.config.codebook_size,
            model=self.name,
            codebooks_sha256=self.codebooks_sha256,
        )

    @torch.inference_mode()
    def decode(self, codes: AudioCodes, num_quantizers: int | None = None) -> torch.Tensor:
        """
        Args:
            codes ([`AudioCodes`]): Codes that a model with the same codebooks made.
            num_quantizers (`int`, *optional*): Use only the first ones of those there are.

        Returns:
            `torch.Tensor` of shape `(1, codes.num_samples)`, on the CPU.

        Raises:
            `ValueError`: The codes are another model's, or have fewer codebooks than asked for.
        """
        if codes.codebooks_sha256 != self.codebooks_sha256:
            raise ValueError(
                f"codes of another model: {codes.model!r} (codebooks {codes.codebooks_sha256[:8]}), "
                f"this one is {self.name!r} (codebooks {self.codebooks_sha256[:8]})"
            )
        for name, value in (("sampling_rate", self.sampling_rate), ("hop_length", self.model.hop_length)):
            if getattr(codes, name) != value:
                raise ValueError(f"`{name}` of the codes must be the model's, {value}, got {getattr(codes, name)}")
        if num_quantizers is not None and not 1 <= num_quantizers <= codes.num_quantizers:
            raise ValueError(f"`num_quantizers` must lie in 1..{codes.num_quantizers}, got {num_quantizers}")
        audio_codes = codes.audio_codes[None, :num_quantizers].to(self.model.device)
        decode = self.model.decode_long if codes.seconds > LONG_SECONDS else self.model.decode
        return decode(audio_codes).audio_values[0, :, : codes.num_samples].float().cpu()


def load_codec(source: "str | os.PathLike | None" = None, device: str | None = None) -> Codec:
    """
    Loads a trained codec in float32, for inference.

    Args:
        source (`str` or `os.PathLike`, *optional*): Folder or Hub id. Default: the checkpoint shipped in the package.
        device (`str`, *optional*): Where it runs. Default: `"cuda"` if there is one, else `"cpu"`.

    Raises:
        `FileNotFoundError`: No `source` is given and none is shipped.
        `ValueError`: `source` cannot be loaded, is another model, lacks weights or was never trained; or `device`
            cannot be used.
    """
    source = pretrained_path() if source is None else source
    if not Path(source).is_dir():
        try:
            validate_repo_id(str(source))
        except HFValidationError as error:
            raise ValueError(f"`model` must be a folder that exists or a Hub id, got {str(source)!r}") from error
    with _quiet_transformers():
        # Foreign and damaged files make transformers and safetensors raise nearly anything, over many lines.
        try:
            config = AutoConfig.from_pretrained(source)
        except Exception as error:
            raise ValueError(f"`model` {str(source)!r} cannot be loaded: {_one_line(error)}") from error
        if not isinstance(config, AffectCodecConfig):
            raise ValueError(f"`model` {str(source)!r} is of type {config.model_type!r}, not 'affectcodec'")
        try:
            model, report = AffectCodecModel.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
        except Exception as error:
            raise ValueError(f"`model` {str(source)!r} cannot be loaded: {_one_line(error)}") from error
    wrong = sorted(report["missing_keys"]) + sorted(key for key, *_ in report["mismatched_keys"])
    if wrong:
        raise ValueError(f"`model` {str(source)!r}: weights missing or of another shape: {len(wrong)}, as {wrong[0]}")
    if not all(bool(codebook.inited) for codebook in model.quantizer.layers):
        raise ValueError(f"`model` {str(source)!r} has empty codebooks: it was never trained")
    codebooks_sha256 = _codebooks_sha256(model)
    return Codec(
        model=_to_device(model.eval(), device),
        feature_extractor=AffectCodecFeatureExtractor(
            sampling_rate=config.sampling_rate, hop_length=config.hop_length
        ),
        name=Path(source).resolve().name if Path(source).is_dir() else f"{source}@{commit_of(source, 'main')}",
        codebooks_sha256=codebooks_sha256,
    )


def _to_device(model: AffectCodecModel, device: str | None) -> AffectCodecModel:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(torch.device(device)).encode(torch.zeros(1, 1, model.hop_length, device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each backend has its own
        raise ValueError(f"`device` {device!r} cannot be used: {_one_line(error)}") from error
    return model.requires_grad_(False)


def _codebooks_sha256(model: AffectCodecModel) -> str:
    entries = torch.stack([codebook.embed for codebook in model.quantizer.layers]).float().cpu()
    return hashlib.sha256(entries.numpy().astype("<f4", copy=False).tobytes()).hexdigest()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{text[:300]}{' ...' * (len(text) > 300)} ({type(error).__name__})"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
