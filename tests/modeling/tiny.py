"""Tiny models for tests, with codebooks that hold something."""

import torch

from hf_affectcodec import AffectCodecConfig, AffectCodecModel


TINY = {
    "seanet": {"num_filters": 4, "hidden_size": 32},
    "istft": {
        "backbone": "istft",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
    },
}


def tiny_config(backbone: str = "istft", **changes) -> AffectCodecConfig:
    values = {
        **TINY[backbone],
        "codebook_size": 64,
        "codebook_dim": 16,
        "guidance_num_heads": 4,
        "emotion_feature_size": 12,
        "semantic_feature_size": 10,
        "alignment_feature_size": 8,
    }
    return AffectCodecConfig(**{**values, **changes})


def tiny_model(backbone: str = "istft", **changes) -> AffectCodecModel:
    """In evaluation mode, with codebooks started from its own latents of noise (so that codes differ between frames)."""
    torch.manual_seed(0)
    model = AffectCodecModel(tiny_config(backbone, **changes)).eval()
    with torch.no_grad():
        latents = model.encode(torch.randn(8, 1, 16000) * 0.3).latents
        model.quantizer.initialize(latents.flatten(0, 1))
    return model
