"""The second stage of a speech language model started from the first, which has learnt to read."""

import torch


@torch.no_grad()
def start_nar_from_ar(model, modulation: float = 0.25) -> None:
    """
    Copies what the stages have alike from `ar` to `nar` of an [`AffectCodecTTSForConditionalGeneration`]: embeddings of text
    and of codebook 1, sizes of positions, attention, feed-forward and the norms' own weights. So the heads that know which
    symbol is being said need not be found once more. Stages change the copied norms by `modulation` of what they do in a new
    model.
    """
    config, ar, nar = model.config, model.ar.model, model.nar
    first = config.text_token_offset
    nar.text_embedding.weight.copy_(ar.embed_tokens.weight[first : first + config.text_vocab_size])
    nar.code_embeddings[0].weight.copy_(ar.embed_tokens.weight[: config.codebook_size])
    nar.position_scales.load_state_dict(ar.position_scales.state_dict())
    nar.norm.norm.load_state_dict(ar.norm.state_dict())
    for own, other in zip(nar.layers, ar.layers, strict=True):
        own.self_attn.load_state_dict(other.self_attn.state_dict())
        own.mlp.load_state_dict(other.mlp.state_dict())
        own.self_attn_norm.norm.load_state_dict(other.self_attn_norm.state_dict())
        own.mlp_norm.norm.load_state_dict(other.mlp_norm.state_dict())
    for norm in [nar.norm, *(norm for layer in nar.layers for norm in (layer.self_attn_norm, layer.mlp_norm))]:
        norm.modulation.weight.mul_(modulation)
        norm.modulation.bias.mul_(modulation)
