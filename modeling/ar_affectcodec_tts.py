"""The autoregressive part: a causal language model over [phonemes ; codes of codebook 1]."""

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .alignment_affectcodec_tts import AffectCodecTTSAlignment
from .cache_affectcodec_tts import AffectCodecTTSCache
from .configuration_affectcodec_tts import AffectCodecTTSConfig
from .layers_affectcodec_tts import (
    CODE,
    TEXT,
    AffectCodecTTSAttention,
    AffectCodecTTSDropout,
    AffectCodecTTSFeedForward,
    AffectCodecTTSPositionScales,
    AffectCodecTTSPreTrainedModel,
    code_cross_entropy,
    positions_of_each_kind,
    sinusoidal_positions,
)


def text_prefix_mask(config, inputs_embeds, attention_mask, past_key_values, token_type_ids):
    """
    The mask of [text ; codes], in the form that `config._attn_implementation` wants: text sees all text, a code sees
    all text and the codes up to itself, nothing sees padding.
    """
    blocks = None
    # Text precedes the codes, so a causal mask already hides the codes from it; text seeing later text is what is added.
    # A single position that follows a cache is a code.
    if inputs_embeds.shape[1] > 1:
        blocks = torch.where(token_type_ids == TEXT, 0, -1)
    # Without position_ids: transformers would take positions that start again for packed sequences.
    return create_causal_mask(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        block_sequence_ids=blocks,
    )


class AffectCodecTTSCausalLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer [B, T, D] -> [B, T, D]."""

    def __init__(self, config: AffectCodecTTSConfig, layer_idx: int):
        super().__init__()
        self.self_attn = AffectCodecTTSAttention(config, layer_idx, is_causal=True)
        self.mlp = AffectCodecTTSFeedForward(config)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = AffectCodecTTSDropout(config.dropout)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, **kwargs):
        attended, _ = self.self_attn(
            self.self_attn_norm(hidden_states),
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class AffectCodecTTSAutoregressiveModel(AffectCodecTTSPreTrainedModel):
    """The stack of [`AffectCodecTTSForCausalLM`] without its head."""

    _can_record_outputs = {"hidden_states": AffectCodecTTSCausalLayer, "attentions": AffectCodecTTSAttention}

    def __init__(self, config: AffectCodecTTSConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_scales = AffectCodecTTSPositionScales()
        self.dropout = AffectCodecTTSDropout(config.dropout)
        self.layers = nn.ModuleList(
            [AffectCodecTTSCausalLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Arguments as in [`AffectCodecTTSForCausalLM`]; hidden states [B, T, D] after the last norm."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of `input_ids` and `inputs_embeds` must be given")
        if token_type_ids is None:
            if input_ids is None:
                raise ValueError("`token_type_ids` must say which `inputs_embeds` are text (0) and which codes (1)")
            token_type_ids = self.token_types(input_ids)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids) * self.embed_scale
        if use_cache and past_key_values is None:
            # transformers can export and gather its own alone, and where ours would copy as well there is nothing to save.
            grows = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
            past_key_values = AffectCodecTTSCache(self.config) if grows else DynamicCache(config=self.config)
        if position_ids is None:
            if past_key_values is not None and past_key_values.get_seq_length() > 0:
                raise ValueError("`position_ids` must be given with filled `past_key_values`: codes count from 0")
            padding = attention_mask if attention_mask is None or attention_mask.dim() == 2 else None
            position_ids = positions_of_each_kind(token_type_ids, padding)

        attention_mask = text_prefix_mask(self.config, inputs_embeds, attention_mask, past_key_values, token_type_ids)
        places = torch.where(token_type_ids == TEXT, position_ids * self.config.text_position_stride, position_ids)
        positions = sinusoidal_positions(places, self.config.hidden_size, inputs_embeds.dtype)
        hidden_states = self.dropout(inputs_embeds + self.position_scales(positions, token_type_ids))
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def token_types(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """Ids [B, T] -> kinds [B, T]: 0 at text, 1 at codes, beginning and end of speech."""
        return torch.where(input_ids >= self.config.text_token_offset, TEXT, CODE)


class AffectCodecTTSForCausalLM(AffectCodecTTSPreTrainedModel, GenerationMixin):
    """
    Causal language model over one sequence [phonemes ; beginning of speech ; codes of codebook 1 ; end of speech]
    (arXiv 2605.11098, section 3.4; VALL-E, arXiv 2301.02111). Phonemes see all phonemes; codes see all phonemes and the
    codes before them. Only codes and the end of speech are predicted; the logits of all other ids are minus infinity.

    Unlike the public VALL-E implementations it has a token for the beginning of speech, so that the first code is
    predicted too, and speech without an acoustic prompt can be asked for.

    Ids are those of one vocabulary, see [`AffectCodecTTSConfig`]: a text symbol `i` is `config.text_token_offset + i`.
    All text must be in the first call where a cache is used.
    """

    def __init__(self, config: AffectCodecTTSConfig):
        super().__init__(config)
        self.model = AffectCodecTTSAutoregressiveModel(config)
        self.code_head = nn.Linear(config.hidden_size, config.codebook_size + 1, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        loss_reduction: str = "mean",
        num_items_in_batch: torch.Tensor | int | None = None,
        alignment: AffectCodecTTSAlignment | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): Ids of [text ; codes].
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
                1 at tokens, 0 at padding, which may lie anywhere. With a cache: of the whole sequence.
            position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Positions of text and of codes, each counted from 0. Needed only with a filled cache.
            past_key_values (`Cache`, *optional*): Keys and values of the sequence so far.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`, *optional*):
                In place of `input_ids`: embeddings times `embed_scale`, without positions; needs `token_type_ids`.
            token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                0 at text, 1 at codes. Default: told from `input_ids`.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                `input_ids` where a code or the end of speech is to be predicted (from the position before), -100 elsewhere.
            use_cache (`bool`, *optional*): Whether to return the cache.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Number of last positions to give logits for (0: all), or their indices. `labels` needs 0 or a number.
            loss_reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` over targets, or `"sum"` of them.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Divide the summed loss by this in place of the number of targets here (gradient accumulation).
            alignment ([`AffectCodecTTSAlignment`], *optional*):
                Holds some heads to a window of the text while single codes are read, and moves on with each.

        Returns:
            `CausalLMOutputWithPast`: loss, logits `(batch, length or logits_to_keep, vocab_size)`, cache.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            token_type_ids=token_type_ids,
            use_cache=use_cache,
            alignment=alignment,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        code_logits = self.code_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            if not isinstance(logits_to_keep, int):
                raise ValueError("`logits_to_keep` must be a number of positions where `labels` are given")
            targets = labels[:, kept][:, 1:]
            loss = code_cross_entropy(code_logits[:, :-1], targets, loss_reduction, num_items_in_batch)
        # Logits as wide as the vocabulary, so that every logits processor of transformers can index them by id.
        others = self.config.vocab_size - code_logits.shape[-1]
        return CausalLMOutputWithPast(
            loss=loss,
            logits=nn.functional.pad(code_logits, (0, others), value=float("-inf")),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(
        self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, **kwargs
    ):
        # `generate` counts one running position; here codes count from 0, and the text's length differs by item.
        if token_type_ids is None:
            token_type_ids = self.model.token_types(input_ids)
        if attention_mask is not None and attention_mask.shape[1] != input_ids.shape[1]:
            raise ValueError("`input_ids` must hold the whole sequence, with what is in the cache")
        return super().prepare_inputs_for_generation(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=positions_of_each_kind(token_type_ids, attention_mask),
            **kwargs,
        )

    @staticmethod
    def create_masks_for_generate(
        config, inputs_embeds, attention_mask, past_key_values, position_ids=None, token_type_ids=None, **kwargs
    ):
        return text_prefix_mask(config, inputs_embeds, attention_mask, past_key_values, token_type_ids)
