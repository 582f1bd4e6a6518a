"""Embeddings of codes that start from the codec's own codebooks, for the speech language model."""

import torch


@torch.no_grad()
def codebook_embeddings(quantizer, hidden_size: int, seed: int = 0) -> list[torch.Tensor]:
    """
    The codec's codebooks in a language model's width: what lies near each other there does so here, and the sum over
    codebooks is still the codec's latent.

    Codebooks are centred (as heads, their means change no probability), then rotated into `hidden_size` channels by one random
    matrix with orthonormal columns or rows, and scaled by one factor, so that vectors of codebook 1 have root mean square
    length 1, as the random embeddings in their place have.

    Args:
        quantizer ([`AffectCodecResidualVectorQuantizer`]): The codec's.
        hidden_size (`int`): Width of the embeddings.
        seed (`int`, *optional*, defaults to 0): Of the rotation.

    Returns:
        `list[torch.FloatTensor]` of shape `(codebook_size, hidden_size)`, one a codebook.
    """
    codebooks = [layer.embed.float() - layer.embed.float().mean(0) for layer in quantizer.layers]
    width = codebooks[0].shape[1]
    rotation = torch.empty(width, hidden_size)
    torch.nn.init.orthogonal_(rotation, generator=torch.Generator().manual_seed(seed))
    scale = codebooks[0].square().sum(-1).mean().rsqrt()
    return [codebook @ rotation * scale for codebook in codebooks]


@torch.no_grad()
def embed_codes_as_codec(model) -> None:
    """Gives both stages of an [`AffectCodecTTSForConditionalGeneration`] its codec's codebooks as embeddings of codes."""
    config = model.config
    embeddings = codebook_embeddings(model.codec_model.quantizer, config.hidden_size)
    for table, embedding in zip(model.nar.code_embeddings, embeddings, strict=True):
        table.weight.copy_(embedding)
    for table in (model.ar.model.embed_tokens, model.ar.code_head):
        table.weight[: config.codebook_size] = embeddings[0]
