"""EG-Latent: emotion and semantic features guide the latents before quantisation (arXiv 2605.11098, section 3.2.1)."""

import torch
import torch.nn.functional as F
from torch import nn

from .cache_affectcodec import AffectCodecCache
from .layers_affectcodec import conv_steps


class AffectCodecGuidanceAttention(nn.Module):
    """Multi-head attention with input and output projections, queries [B, F, D], keys and values [B, F', D]."""

    def __init__(self, config):
        super().__init__()
        self.num_heads = config.guidance_num_heads
        self.causal = config.causal
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def _split(self, hidden_states):
        return hidden_states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, queries, keys_values, frame_mask=None, cache=None):
        if cache is not None:
            keys_values, frame_mask = cache.append(self, keys_values)
        mask = None if frame_mask is None else frame_mask[:, None, None, :]
        if self.causal:
            frames, seen = queries.shape[1], keys_values.shape[1]
            past = torch.ones(frames, seen, dtype=torch.bool, device=queries.device).tril(seen - frames)
            mask = past if mask is None else past & mask
        attended = F.scaled_dot_product_attention(
            self._split(self.q_proj(queries)),
            self._split(self.k_proj(keys_values)),
            self._split(self.v_proj(keys_values)),
            attn_mask=mask,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class AffectCodecGuidance(nn.Module):
    r"""
    z_uni = z + u_emo * d_emo + u_sem * d_sem with u = W_m h and h = Attention(W_a z, W_e e, W_e e).

    Table 6's rows: `guidance_attention` "cross" (queries from the acoustic latents), "self" (queries from the features
    themselves) or "none" (h = W_e e), and `guidance_order` "before" (attention in the projected space, then W_m) or "after"
    (W_m first, then attention with z as queries). Where the paper is silent: no biases in the W, W_m starts at zero (the
    model starts unguided), each channel of a term is dropped with probability `guidance_dropout` and each whole term with
    `guidance_term_dropout`, nothing is rescaled.
    """

    def __init__(self, config):
        super().__init__()
        self.attention_kind = config.guidance_attention
        self.order = config.guidance_order
        self.dropout = config.guidance_dropout
        self.term_dropout = config.guidance_term_dropout
        size = config.hidden_size
        widths = {"emotion": config.emotion_feature_size, "semantic": config.semantic_feature_size}
        if self.attention_kind == "cross" and self.order == "before":
            self.acoustic_proj = nn.Linear(size, size, bias=False)
        self.feature_projs = nn.ModuleDict(
            {source: nn.Linear(widths[source], size, bias=False) for source in config.guidance_sources}
        )
        self.attentions = nn.ModuleDict(
            {source: AffectCodecGuidanceAttention(config) for source in config.guidance_sources}
            if config.guidance_attention != "none"
            else {}
        )
        self.back_proj = nn.Linear(size, size, bias=False)

    def _term(self, source, latents, features, frame_mask, cache):
        projected = self.feature_projs[source](features)
        if self.order == "after":
            projected = self.back_proj(projected)
        if self.attention_kind == "cross":
            queries = self.acoustic_proj(latents) if self.order == "before" else latents
            projected = self.attentions[source](queries, projected, frame_mask, cache)
        elif self.attention_kind == "self":
            projected = self.attentions[source](projected, projected, frame_mask, cache)
        return self.back_proj(projected) if self.order == "before" else projected

    def _dropped(self, term):
        if not self.training:
            return term
        batch, _, size = term.shape
        keep = torch.rand(batch, 1, size, device=term.device) >= self.dropout
        keep_term = torch.rand(batch, 1, 1, device=term.device) >= self.term_dropout
        return term * (keep & keep_term)

    def forward(
        self,
        latents: torch.Tensor,
        features: dict[str, torch.Tensor],
        frame_mask: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ):
        """
        Args:
            latents (`torch.Tensor` of shape `(batch, frames, hidden_size)`): z.
            features (`dict[str, torch.Tensor]`): `"emotion"` and / or `"semantic"`, each `(batch, frames, width)`, at codec
                frames. A source that is absent adds nothing.
            frame_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*): True at valid frames.
            cache ([`AffectCodecCache`], *optional*): Of a stream, whose earlier frames are attended to as well.

        Returns:
            `torch.Tensor` of shape `(batch, frames, hidden_size)`: z_uni.
        """
        guided = latents
        for source, values in features.items():
            guided = guided + self._dropped(self._term(source, latents, values, frame_mask, cache))
        return guided


class AffectCodecSelfGuidance(nn.Module):
    """
    Predicts the guidance features from the acoustic latents, so that encoding needs no teacher (ours; not in the paper).

    One hidden convolution over time per source: [B, F, D] -> {source: [B, F, width]}.
    """

    def __init__(self, config, kernel_size: int = 5):
        super().__init__()
        self.kernel_size = kernel_size
        self.causal = config.causal
        widths = {"emotion": config.emotion_feature_size, "semantic": config.semantic_feature_size}
        hidden = config.self_guidance_hidden_size
        self.convs = nn.ModuleDict(
            {s: nn.Conv1d(config.hidden_size, hidden, kernel_size) for s in config.guidance_sources}
        )
        self.heads = nn.ModuleDict({s: nn.Linear(hidden, widths[s]) for s in config.guidance_sources})

    def forward(
        self,
        latents: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        cache: AffectCodecCache | None = None,
    ) -> dict[str, torch.Tensor]:
        masked = latents if frame_mask is None else latents * frame_mask[..., None]
        if cache is None:
            left = self.kernel_size - 1 if self.causal else self.kernel_size // 2
            padded = F.pad(masked, (0, 0, left, self.kernel_size - 1 - left))
        else:
            padded = cache.extend(self, masked, self.kernel_size - 1)
        return {s: self.heads[s](F.gelu(conv_steps(padded, conv.weight, conv.bias))) for s, conv in self.convs.items()}


__all__ = ["AffectCodecGuidance", "AffectCodecSelfGuidance"]
