"""Graph attention over fully connected, masked nodes, and the multi-head attention of the other fusions."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


# Elements of one block of GATv2's pairwise tensor: 128 MB in float32.
PAIRWISE_BLOCK = 2**25


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor | None, dim: int) -> torch.Tensor:
    """Softmax over the entries of `dim` where the mask is True; 0 elsewhere, also where no entry is left."""
    if mask is None:
        return scores.softmax(dim)
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim)
    return weights * mask


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean of `[B, T, D]` over the time steps where the mask `[B, T]` is True -> `[B, D]`; 0 where there are none."""
    if mask is None:
        return values.mean(1)
    weights = mask.to(values.dtype)[..., None]
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)


def masked_statistics(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Mean and standard deviation of `[B, T, D]` over the time steps where the mask `[B, T]` is True -> `[B, 2 D]`; 0 where there
    are none.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean[:, None]).square(), mask)
    # the root's slope is infinite at 0, which a single step has
    return torch.cat([mean, variance.clamp(min=1e-12).sqrt() * (variance > 0)], -1)


def pool_frames(values: torch.Tensor, mask: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Means of `size` steps each of `[B, T, D]`, of those where the mask `[B, T]` is True -> `[B, ceil(T / size), D]` and its mask.
    """
    missing = -values.shape[1] % size
    groups = F.pad(values, (0, 0, 0, missing)).unflatten(1, (-1, size))
    there = F.pad(mask, (0, missing)).unflatten(1, (-1, size))
    return masked_mean(groups.flatten(0, 1), there.flatten(0, 1)).unflatten(0, groups.shape[:2]), there.any(-1)


class GraphFusionGraphAttention(nn.Module):
    r"""
    GAT (arXiv 1710.10903) over nodes that are all connected, each with itself too:
    `h = W x`, `e_ij = LeakyReLU(a^T [h_i || h_j])`, `out_i = sum_j softmax_j(e_ij) h_j`; no bias, no activation after it, no
    residual. Several heads share the width and are concatenated.

    The score needs no `[B, T, T, 2 D]` tensor: `a^T [h_i || h_j] = a_1^T h_i + a_2^T h_j`, exactly, so two dot products a
    node and their sum `[B, heads, T, T]` do.
    """

    def __init__(self, size: int, num_heads: int, negative_slope: float):
        super().__init__()
        self.num_heads = num_heads
        self.negative_slope = negative_slope
        self.proj = nn.Linear(size, size, bias=False)
        self.receiver = nn.Parameter(torch.empty(num_heads, size // num_heads))
        self.sender = nn.Parameter(torch.empty(num_heads, size // num_heads))

    def forward(self, nodes: torch.Tensor, mask: torch.Tensor | None = None, output_attentions: bool = False):
        """
        Args:
            nodes (`torch.Tensor` of shape `(batch, nodes, size)`): x.
            mask (`torch.BoolTensor` of shape `(batch, nodes)`, *optional*): True at nodes that exist. The others send nothing.
            output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the weights too.

        Returns:
            `(torch.Tensor, torch.Tensor | None)`: `(batch, nodes, size)`, and weights `(batch, heads, receiver, sender)`.
        """
        hidden = self.proj(nodes).unflatten(-1, (self.num_heads, -1))
        receiver = (hidden * self.receiver).sum(-1).transpose(1, 2)
        sender = (hidden * self.sender).sum(-1).transpose(1, 2)
        scores = F.leaky_relu(receiver[..., :, None] + sender[..., None, :], self.negative_slope)
        weights = masked_softmax(scores, None if mask is None else mask[:, None, None, :], -1)
        out = (weights @ hidden.transpose(1, 2)).transpose(1, 2).flatten(2)
        return out, weights if output_attentions else None


class GraphFusionGraphAttentionV2(nn.Module):
    r"""
    GATv2 (arXiv 2105.14491) over nodes that are all connected: `e_ij = a^T LeakyReLU(W_r x_i + W_s x_j)`,
    `out_i = sum_j softmax_j(e_ij) W_s x_j`; no bias. Here the score does not split, since the non-linearity stands between:
    scores are made block by block of receivers, and made again in the backward pass, so that memory stays bounded.
    """

    def __init__(self, size: int, num_heads: int, negative_slope: float):
        super().__init__()
        self.num_heads = num_heads
        self.negative_slope = negative_slope
        self.receiver_proj = nn.Linear(size, size, bias=False)
        self.sender_proj = nn.Linear(size, size, bias=False)
        self.attention = nn.Parameter(torch.empty(num_heads, size // num_heads))

    def _scores(self, receivers, senders):
        """Receivers [B, R, heads, d] and senders [B, T, heads, d] -> [B, heads, R, T]."""
        pairs = F.leaky_relu(receivers[:, :, None] + senders[:, None], self.negative_slope)
        return (pairs * self.attention).sum(-1).permute(0, 3, 1, 2)

    def forward(self, nodes: torch.Tensor, mask: torch.Tensor | None = None, output_attentions: bool = False):
        """As [`GraphFusionGraphAttention.forward`]."""
        receivers = self.receiver_proj(nodes).unflatten(-1, (self.num_heads, -1))
        senders = self.sender_proj(nodes).unflatten(-1, (self.num_heads, -1))
        block = max(1, PAIRWISE_BLOCK // senders.numel())
        parts = receivers.split(block, dim=1)
        if len(parts) == 1:
            scores = self._scores(receivers, senders)
        else:
            scores = [checkpoint(self._scores, part, senders, use_reentrant=False) for part in parts]
            scores = torch.cat(scores, 2)
        weights = masked_softmax(scores, None if mask is None else mask[:, None, None, :], -1)
        out = (weights @ senders.transpose(1, 2)).transpose(1, 2).flatten(2)
        return out, weights if output_attentions else None


GRAPH_ATTENTION_CLASSES = {"gat": GraphFusionGraphAttention, "gatv2": GraphFusionGraphAttentionV2}


class GraphFusionMultiHeadAttention(nn.Module):
    """
    Scaled dot-product attention with projections, as `nn.MultiheadAttention` has it. A query that has no valid key gets
    zeros, so that an absent modality adds nothing.
    """

    def __init__(self, size: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def _split(self, hidden_states):
        return hidden_states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self,
        queries: torch.Tensor,
        keys_values: torch.Tensor,
        mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ):
        """
        Args:
            queries (`torch.Tensor` of shape `(batch, queries, size)`): What attends.
            keys_values (`torch.Tensor` of shape `(batch, keys, size)`): What is attended to.
            mask (`torch.BoolTensor` of shape `(batch, keys)`, *optional*): True at valid keys.
            output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the weights too.

        Returns:
            `(torch.Tensor, torch.Tensor | None)`: `(batch, queries, size)`, and weights `(batch, heads, queries, keys)`.
        """
        query, key, value = (
            self._split(self.q_proj(queries)),
            self._split(self.k_proj(keys_values)),
            self._split(self.v_proj(keys_values)),
        )
        weights = None
        dropout = self.dropout if self.training else 0.0
        if output_attentions:
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            weights = masked_softmax(scores, None if mask is None else mask[:, None, None, :], -1)
            attended = F.dropout(weights, dropout) @ value
        else:
            # A row without a valid key would be a softmax over nothing: let it see all, and drop the result below.
            seen = None if mask is None else (mask | ~mask.any(-1, keepdim=True))[:, None, None, :]
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        out = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out if mask is None else out * mask.any(-1)[:, None, None], weights


class GraphFusionEncoderLayer(nn.Module):
    """A post-norm transformer encoder layer with ReLU: the same function as `nn.TransformerEncoderLayer`."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.attention = GraphFusionMultiHeadAttention(size, config.num_attention_heads, config.dropout)
        self.attention_norm = nn.LayerNorm(size)
        self.up_proj = nn.Linear(size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, size)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states, mask=None, output_attentions=False):
        attended, weights = self.attention(hidden_states, hidden_states, mask, output_attentions)
        hidden_states = self.attention_norm(hidden_states + self.dropout(attended))
        inner = self.dropout(F.relu(self.up_proj(hidden_states)))
        return self.feed_forward_norm(hidden_states + self.dropout(self.down_proj(inner))), weights


class GraphFusionAttentivePooling(nn.Module):
    """`w = softmax_time(Linear(x))` for each channel by itself, `sum_time w * x`."""

    def __init__(self, size: int):
        super().__init__()
        self.proj = nn.Linear(size, size)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None):
        """`[B, T, D]` -> `[B, D]`, and the weights `[B, T, D]`."""
        weights = masked_softmax(self.proj(hidden_states), None if mask is None else mask[..., None], 1)
        return (weights * hidden_states).sum(1), weights
