"""Recordings of hours through AffectCodec in bounded memory: windows with context, or, for causal models, a stream."""

import torch
from transformers.utils import logging

from .outputs_affectcodec import AffectCodecDecoderOutput, AffectCodecEncoderOutput


CHUNK_SECONDS = 20.0
# Where a result depends on all of the recording (LSTMs, attention), this much on either side is looked at.
CONTEXT_SECONDS = 2.0


def encoder_context(model) -> int | None:
    """Frames on either side that a code depends on; `None`: on the whole recording."""
    config = model.config
    if config.backbone == "seanet" or model.guidance is not None:
        return None
    around = max(n_fft - hop for n_fft, hop in zip(config.mel_n_ffts, config.mel_hop_lengths, strict=True)) / 2
    return config.num_encoder_layers * (config.convnext_kernel_size // 2) + -(-int(around) // config.hop_length)


def decoder_context(model) -> int | None:
    """Frames on either side that a sample depends on; `None`: on the whole recording."""
    config = model.config
    if config.backbone == "seanet":
        return None
    return config.num_decoder_layers * (config.convnext_kernel_size // 2) + -(
        -model.decoder.delay // config.hop_length
    )


def windows(num_frames: int, chunk: int, context: int):
    """For each chunk of frames (first, last) and what is looked at for it (start, stop)."""
    for first in range(0, num_frames, chunk):
        last = min(first + chunk, num_frames)
        yield first, last, max(0, first - context), min(num_frames, last + context)


def _context(seconds, needed, model):
    if seconds is not None:
        if seconds < 0:
            raise ValueError(f"`context_seconds` must not be negative, got {seconds}")
        return round(seconds * model.frame_rate)
    return round(CONTEXT_SECONDS * model.frame_rate) if needed is None else needed


def _chunk(seconds, model):
    frames = round(seconds * model.frame_rate)
    if frames < 1:
        raise ValueError(f"`chunk_seconds` must be at least a frame (1 / {model.frame_rate:g} s), got {seconds}")
    return frames


@torch.no_grad()
def encode_long(
    model,
    input_values: torch.Tensor,
    num_quantizers: int | None = None,
    guidance_source: str | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    context_seconds: float | None = None,
) -> AffectCodecEncoderOutput:
    """See [`AffectCodecModel.encode_long`]."""
    model._check_input_values(input_values, None)
    model._check_num_quantizers(num_quantizers)
    chunk, hop = _chunk(chunk_seconds, model), model.hop_length
    context = _context(context_seconds, encoder_context(model), model)
    frames = -(-input_values.shape[-1] // hop)
    stream = None
    if model.config.causal:
        stream = model.streaming(input_values.shape[0], num_quantizers, guidance_source)
    parts = []
    for first, last, start, stop in logging.tqdm(list(windows(frames, chunk, context)), desc="encoding"):
        if stream is not None:
            part = stream.encode(input_values[..., first * hop : last * hop]).audio_codes
        else:
            # The last window's last frame may be an open one; a window is never shorter than a frame.
            window = input_values[..., start * hop : stop * hop]
            window = torch.nn.functional.pad(window, (0, -window.shape[-1] % hop))
            codes = model.encode(window, num_quantizers=num_quantizers, guidance_source=guidance_source).audio_codes
            part = codes[..., first - start : last - start]
        parts.append(part)
    if stream is not None:
        parts.append(stream.finish_encode().audio_codes)
    codes = torch.cat(parts, dim=-1)
    mask = torch.ones(codes.shape[0], frames, dtype=torch.bool, device=codes.device)
    return AffectCodecEncoderOutput(audio_codes=codes, audio_codes_mask=mask)


@torch.no_grad()
def decode_long(
    model,
    audio_codes: torch.Tensor,
    chunk_seconds: float = CHUNK_SECONDS,
    context_seconds: float | None = None,
) -> AffectCodecDecoderOutput:
    """See [`AffectCodecModel.decode_long`]."""
    model._check_codes(audio_codes)
    chunk, hop = _chunk(chunk_seconds, model), model.hop_length
    context = _context(context_seconds, decoder_context(model), model)
    frames = audio_codes.shape[-1]
    stream = model.streaming(audio_codes.shape[0]) if model.config.causal else None
    # Filled as it comes: to join parts at the end would need the memory of the samples twice.
    waveform = torch.empty(audio_codes.shape[0], 1, frames * hop, dtype=model.dtype, device=audio_codes.device)
    position = 0
    for first, last, start, stop in logging.tqdm(list(windows(frames, chunk, context)), desc="decoding"):
        if stream is not None:
            part = stream.decode(audio_codes[..., first:last]).audio_values
        else:
            part = model.decode(audio_codes[..., start:stop]).audio_values
            part = part[..., (first - start) * hop : (last - start) * hop]
        waveform[..., position : position + part.shape[-1]] = part
        position += part.shape[-1]
    if stream is not None:
        waveform[..., position:] = stream.finish_decode().audio_values
    mask = torch.ones(waveform.shape[0], waveform.shape[-1], dtype=torch.bool, device=waveform.device)
    return AffectCodecDecoderOutput(audio_values=waveform, padding_mask=mask)


__all__ = ["decode_long", "encode_long"]
