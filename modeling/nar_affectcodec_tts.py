"""The non-autoregressive part: from codebook to codebook, all frames at once."""

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_affectcodec_tts import AffectCodecTTSConfig
from .layers_affectcodec_tts import (
    AffectCodecTTSAdaptiveLayerNorm,
    AffectCodecTTSAttention,
    AffectCodecTTSDropout,
    AffectCodecTTSFeedForward,
    AffectCodecTTSPositionScales,
    AffectCodecTTSPreTrainedModel,
    AffectCodecTTSStageEmbedding,
    code_cross_entropy,
    sinusoidal_positions,
)


class AffectCodecTTSAdaptiveLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer [B, T, D] -> [B, T, D] whose norms follow a stage embedding [D]."""

    def __init__(self, config: AffectCodecTTSConfig, layer_idx: int):
        super().__init__()
        self.self_attn = AffectCodecTTSAttention(config, layer_idx, is_causal=False)
        self.mlp = AffectCodecTTSFeedForward(config)
        self.self_attn_norm = AffectCodecTTSAdaptiveLayerNorm(config)
        self.mlp_norm = AffectCodecTTSAdaptiveLayerNorm(config)
        self.dropout = AffectCodecTTSDropout(config.dropout)

    def forward(self, hidden_states, stage, attention_mask=None, **kwargs):
        attended, _ = self.self_attn(
            self.self_attn_norm(hidden_states, stage), attention_mask=attention_mask, **kwargs
        )
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states, stage)))


class AffectCodecTTSNonAutoregressiveModel(AffectCodecTTSPreTrainedModel):
    """
    Predicts the codes of one codebook from those of the codebooks below it, the phonemes and an acoustic prompt of all
    codebooks (arXiv 2605.11098, section 3.4; VALL-E, arXiv 2301.02111, section 4.2.2). Every position sees every other.

    Unlike in the public VALL-E implementations positions have learnt sizes here too, as in the first part; they start at 1.

    A stage predicts a codebook `k` in `1..num_quantizers - 1`, counted from 0 as in `audio_codes[:, k]`. Its head *is*
    the embedding table of the codebook that it predicts, so the heads have no weights of their own.
    """

    _input_embed_layer = "text_embedding"
    _can_record_outputs = {"hidden_states": AffectCodecTTSAdaptiveLayer, "attentions": AffectCodecTTSAttention}

    def __init__(self, config: AffectCodecTTSConfig):
        super().__init__(config)
        self.text_embedding = nn.Embedding(config.text_vocab_size, config.hidden_size)
        self.code_embeddings = nn.ModuleList(
            [nn.Embedding(config.codebook_size, config.hidden_size) for _ in range(config.num_quantizers)]
        )
        self.stage_embedding = AffectCodecTTSStageEmbedding(config.num_quantizers - 1, config.hidden_size)
        self.position_scales = AffectCodecTTSPositionScales()
        self.dropout = AffectCodecTTSDropout(config.dropout)
        self.layers = nn.ModuleList(
            [AffectCodecTTSAdaptiveLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.norm = AffectCodecTTSAdaptiveLayerNorm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor,
        audio_codes: torch.LongTensor,
        codebook: int,
        attention_mask: torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
        prompt_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        loss_reduction: str = "mean",
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> MaskedLMOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, text_length)`): Text symbols, `0..text_vocab_size - 1`.
            audio_codes (`torch.LongTensor` of shape `(batch, num_quantizers, frames)`):
                Codes. Outside the prompt only those of codebooks below `codebook` are read.
            codebook (`int`): The codebook to predict, `1..num_quantizers - 1`.
            attention_mask (`torch.Tensor` of shape `(batch, text_length)`, *optional*): 1 at text, 0 at padding.
            audio_codes_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                1 at frames, 0 at padding (on the right, as frames are counted from the left).
            prompt_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*):
                1 at frames of the acoustic prompt, whose codes of all codebooks are read. `None`: no prompt.
            labels (`torch.LongTensor` of shape `(batch, frames)`, *optional*): The codes to predict, -100 where none is.
            loss_reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` over targets, or `"sum"` of them.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Divide the summed loss by this in place of the number of targets here (gradient accumulation).

        Returns:
            `MaskedLMOutput`: loss, logits `(batch, frames, codebook_size)`.
        """
        if type(codebook) is not int or not 1 <= codebook < self.config.num_quantizers:
            raise ValueError(f"`codebook` must be an integer in 1..{self.config.num_quantizers - 1}, got {codebook!r}")
        text = self.text_embedding(input_ids)
        codes = self.embed_codes(audio_codes, codebook, prompt_mask)
        padding = None
        if attention_mask is not None or audio_codes_mask is not None:
            given = ((attention_mask, text), (audio_codes_mask, codes))
            padding = [e.new_ones(e.shape[:2], dtype=torch.bool) if mask is None else mask.bool() for mask, e in given]
            padding = torch.cat(padding, dim=1)
        hidden_states = self.dropout(
            torch.cat(
                (
                    self._positioned(
                        text, attention_mask, self.position_scales.text, self.config.text_position_stride
                    ),
                    self._positioned(codes, None, self.position_scales.codes),
                ),
                dim=1,
            )
        )
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=padding
        )
        stage = self.stage_embedding.weight[codebook - 1]
        for layer in self.layers:
            hidden_states = layer(hidden_states, stage, attention_mask=attention_mask, **kwargs)
        hidden_states = self.norm(hidden_states[:, text.shape[1] :], stage)
        logits = nn.functional.linear(hidden_states, self.code_embeddings[codebook].weight)
        loss = None if labels is None else code_cross_entropy(logits, labels, loss_reduction, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits)

    def embed_codes(self, audio_codes, codebook, prompt_mask):
        """Codes [B, Q, F] -> [B, F, D]: the sum over the codebooks below `codebook`, over all of them in the prompt."""
        embeds = sum(self.code_embeddings[k](audio_codes[:, k]) for k in range(codebook))
        if prompt_mask is None:
            return embeds
        # What the target frames hold in the upper codebooks is never looked up: it may be unknown.
        prompt_codes = audio_codes.masked_fill(~prompt_mask.bool()[:, None], 0)
        upper = sum(self.code_embeddings[k](prompt_codes[:, k]) for k in range(codebook, self.config.num_quantizers))
        return embeds + upper * prompt_mask.bool()[..., None]

    def _positioned(self, embeds, mask, scale, stride=1.0):
        """
        Embeddings [B, T, D] scaled and with positions times `scale`, `stride` apart, that do not count what `mask` [B, T]
        leaves out.
        """
        if mask is None:
            position_ids = torch.arange(embeds.shape[1], device=embeds.device)[None]
        else:
            position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
        positions = sinusoidal_positions(position_ids * stride, embeds.shape[-1], embeds.dtype)
        return embeds * self.embed_scale + scale * positions
