"""What the two Transformers of the speech language model share: positions, attention, feed-forward, initial weights."""

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from .configuration_affectcodec_tts import AffectCodecTTSConfig
from .layers_affectcodec import AffectCodecLinear


TEXT, CODE = 0, 1


def sinusoidal_positions(position_ids: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Positions [...] -> [..., width]; sines at even channels, cosines at odd ones (Vaswani et al. 2017, section 3.5)."""
    # Half precision cannot tell late positions apart.
    precise = torch.promote_types(dtype, torch.float32)
    channels = torch.arange(0, width, 2, device=position_ids.device, dtype=precise)
    angles = position_ids[..., None].to(precise) * torch.exp(channels * (-math.log(10000.0) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(dtype)


def positions_of_each_kind(token_type_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """
    Positions [B, T] that count text and codes apart, each from 0, whatever padding lies before or between them.

    Args:
        token_type_ids: Long tensor [B, T], 0 at text, 1 at codes.
        attention_mask: Tensor [B, T], 1 at tokens, 0 at padding. `None`: no padding.
    """
    is_code = token_type_ids == CODE
    is_text = token_type_ids == TEXT
    if attention_mask is not None:
        is_code, is_text = is_code & attention_mask.bool(), is_text & attention_mask.bool()
    positions = torch.where(token_type_ids == CODE, is_code.long().cumsum(-1), is_text.long().cumsum(-1)) - 1
    return positions.clamp(min=0)


def code_cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    reduction: str = "mean",
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy of logits [..., C] and targets [...], -100 where there is none; in float32 at least."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`loss_reduction` must be 'mean' or 'sum', got {reduction!r}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    if num_items_in_batch is not None:
        return nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum") / num_items_in_batch
    return nn.functional.cross_entropy(logits, targets.flatten(), reduction=reduction)


def keep_some(hidden_states: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """
    `nn.functional.dropout`. On CPUs an element is kept by 16 random bits (so `p` is a multiple of 2^-16): torch's own draws took
    a quarter of a training step.
    """
    if not training or not 0 < p < 1 or hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.dropout(hidden_states, p, training)
    count = hidden_states.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    lost = min(round(p * 2**16), 2**16 - 1)
    kept = bits[:count].view(hidden_states.shape) >= lost - 2**15
    return hidden_states * kept.to(hidden_states.dtype).mul_(1 / (1 - p))


class AffectCodecTTSDropout(nn.Dropout):
    """`nn.Dropout` by [`keep_some`]."""

    def forward(self, hidden_states):
        return keep_some(hidden_states, self.p, self.training)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention by plain products: query, key, value [B, heads, T, D / heads] -> output [B, T, heads, D / heads], weights."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.promote_types(query.dtype, torch.float32))
    weights = keep_some(weights.to(query.dtype), dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class AffectCodecTTSAttention(nn.Module):
    """Multi-head self-attention over [B, T, D]; with a `layer_idx` it can keep keys and values in a cache."""

    def __init__(self, config: AffectCodecTTSConfig, layer_idx: int, is_causal: bool):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.dropout = config.dropout
        self.q_proj = AffectCodecLinear(config.hidden_size, config.hidden_size)
        self.k_proj = AffectCodecLinear(config.hidden_size, config.hidden_size)
        self.v_proj = AffectCodecLinear(config.hidden_size, config.hidden_size)
        self.o_proj = AffectCodecLinear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, alignment=None, **kwargs):
        by_head = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(by_head).transpose(1, 2)
        key = self.k_proj(hidden_states).view(by_head).transpose(1, 2)
        value = self.v_proj(hidden_states).view(by_head).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if alignment is not None:
            attention_mask = alignment.constrain(self.layer_idx, query, key, attention_mask, self.scaling)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(hidden_states.shape)), weights


class AffectCodecTTSFeedForward(nn.Module):
    """Two linear layers [B, T, D] -> [B, T, D] with ReLU and dropout between them."""

    def __init__(self, config: AffectCodecTTSConfig):
        super().__init__()
        self.up_proj = AffectCodecLinear(config.hidden_size, config.intermediate_size)
        self.down_proj = AffectCodecLinear(config.intermediate_size, config.hidden_size)
        self.dropout = AffectCodecTTSDropout(config.dropout)

    def forward(self, hidden_states):
        return self.down_proj(self.dropout(nn.functional.relu(self.up_proj(hidden_states))))


class AffectCodecTTSPositionScales(nn.Module):
    """The learnable weights of the sinusoidal positions, one for text, one for codes."""

    def __init__(self):
        super().__init__()
        self.text = nn.Parameter(torch.ones(()))
        self.codes = nn.Parameter(torch.ones(()))

    def forward(self, positions, token_type_ids):
        """Positions [B, T, D] and kinds [B, T] -> scaled positions [B, T, D]."""
        return positions * torch.where(token_type_ids == TEXT, self.text, self.codes)[..., None]


class AffectCodecTTSStageEmbedding(nn.Embedding):
    """
    Embeddings of stages. They start with channels of size .3: at the size of the other tables, `hidden_size^-.5`, stages would
    hardly differ, and at 1, which is torch's own, AdamW learns four utterances by heart less steadily.
    """


class AffectCodecTTSAdaptiveLayerNorm(nn.Module):
    """
    Layer norm whose scale and shift are linear in a stage embedding (VALL-E, arXiv 2301.02111, section 4.2.2):
    `a LN(h) + b` with (a - 1, b) = W s + c. The one is counted apart so that it starts near the plain layer norm.
    """

    def __init__(self, config: AffectCodecTTSConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.modulation = nn.Linear(config.hidden_size, 2 * config.hidden_size)

    def forward(self, hidden_states, stage):
        """Hidden states [B, T, D] and stage embedding [D] -> [B, T, D]."""
        scale, shift = self.modulation(stage).chunk(2, dim=-1)
        return (1 + scale) * self.norm(hidden_states) + shift


class AffectCodecTTSPreTrainedModel(PreTrainedModel):
    config: AffectCodecTTSConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _no_split_modules = ["AffectCodecTTSCausalLayer", "AffectCodecTTSAdaptiveLayer"]
    _skip_keys_device_placement = ["past_key_values"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, AffectCodecTTSStageEmbedding):
            init.normal_(module.weight, std=0.3)
        elif isinstance(module, nn.Embedding):
            # Unit vectors: with `embed_scale` they enter at the size of the positions, and as heads give logits of size 1.
            init.normal_(module.weight, std=self.config.hidden_size**-0.5)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, AffectCodecTTSPositionScales):
            init.ones_(module.text)
            init.ones_(module.codes)

    @property
    def embed_scale(self) -> float:
        """Factor of the embeddings on their way in (Vaswani et al. 2017, section 3.4)."""
        return self.config.hidden_size**0.5
