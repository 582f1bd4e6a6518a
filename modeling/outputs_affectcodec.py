"""What `encode` and `decode` of AffectCodec return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class AffectCodecEncoderOutput(ModelOutput):
    """
    Args:
        audio_codes (`torch.LongTensor` of shape `(batch, num_quantizers, frames)`): Codes; 0 where the mask is False.
        audio_codes_mask (`torch.BoolTensor` of shape `(batch, frames)`): True at valid frames; its sum is the valid length.
        latents (`torch.FloatTensor` of shape `(batch, frames, hidden_size)`): The latents that were quantized.
    """

    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.BoolTensor | None = None
    latents: torch.FloatTensor | None = None


@dataclass
class AffectCodecDecoderOutput(ModelOutput):
    """
    Args:
        audio_values (`torch.FloatTensor` of shape `(batch, 1, frames * hop_length)`): Waveform; 0 where the mask is False.
        padding_mask (`torch.BoolTensor` of shape `(batch, frames * hop_length)`): True at valid samples.
    """

    audio_values: torch.FloatTensor | None = None
    padding_mask: torch.BoolTensor | None = None


__all__ = ["AffectCodecDecoderOutput", "AffectCodecEncoderOutput"]
