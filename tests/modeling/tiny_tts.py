"""Tiny speech language models for tests, and inputs for them."""

import torch
from tiny import tiny_config, tiny_model

from hf_affectcodec.modeling.configuration_affectcodec_tts import AffectCodecTTSConfig
from hf_affectcodec.modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration


TEXT_SIZE, CODES, QUANTIZERS = 20, 64, 8


def tiny_tts_config(**changes) -> AffectCodecTTSConfig:
    values = {
        "codec_config": tiny_config(guidance_sources=(), alignment_feature_size=None),
        "text_vocab_size": TEXT_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "dropout": 0.0,
        "min_prompt_frames": 2,
        "max_prompt_frames": 10,
    }
    return AffectCodecTTSConfig(**{**values, **changes})


def tiny_tts(**changes) -> AffectCodecTTSForConditionalGeneration:
    """In evaluation mode; weights are large enough for attention and norms to matter, no two alike."""
    torch.manual_seed(0)
    model = AffectCodecTTSForConditionalGeneration(tiny_tts_config(**changes)).eval()
    # A codec whose codebooks hold something.
    model.codec_model.load_state_dict(tiny_model(guidance_sources=(), alignment_feature_size=None).state_dict())
    with torch.no_grad():
        for part in (model.ar, model.nar):
            for name, parameter in part.named_parameters():
                is_table = "embed" in name
                # Stages' embeddings are large, and this is linear in them.
                size = 0.05 if name.endswith("modulation.weight") else 0.4
                if not is_table:
                    parameter.add_(torch.randn_like(parameter) * size)
    return model


def random_inputs(text_lengths, frames, seed=0):
    """Phonemes [B, L], their mask (padding on the left), codes [B, 8, F], their mask; padding holds random ids."""
    generator = torch.Generator().manual_seed(seed)
    phonemes = torch.randint(TEXT_SIZE, (len(text_lengths), max(text_lengths)), generator=generator)
    mask = torch.arange(max(text_lengths)) >= max(text_lengths) - torch.tensor(text_lengths)[:, None]
    codes = torch.randint(CODES, (len(frames), QUANTIZERS, max(frames)), generator=generator)
    codes_mask = torch.arange(max(frames)) < torch.tensor(frames)[:, None]
    return phonemes, mask, codes, codes_mask
