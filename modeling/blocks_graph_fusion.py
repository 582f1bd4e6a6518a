"""
The five fusions of arXiv 2506.02088, each from projected sequences to one vector a modality.

All take and return the same: `states` and `masks` by modality, `(batch, time, hidden_size)` and `(batch, time)`, True at
valid steps; an item without a modality has no True in its mask. They return the vectors by modality, `(batch, width)`,
meaningless where the modality is absent, and a dict of attention weights, empty unless asked for. The public code has no
masks: there, padding takes part in every softmax and mean. All-True masks give that.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .attention_graph_fusion import (
    GRAPH_ATTENTION_CLASSES,
    GraphFusionAttentivePooling,
    GraphFusionEncoderLayer,
    GraphFusionMultiHeadAttention,
    masked_mean,
)
from .coattention_graph_fusion import GraphFusionCoAttention


def _graph_attention(config):
    return GRAPH_ATTENTION_CLASSES[config.graph_attention](
        config.hidden_size, config.graph_num_heads, config.negative_slope
    )


class GraphFusionMdat(nn.Module):
    """
    MDAT as coded: graph attention over the time steps of each modality by itself, co-attention between modalities, one
    transformer layer each, attentive pooling. (The paper's prose has the graph's nodes be speech and text: see
    [`GraphFusionGat`].)
    """

    def __init__(self, config):
        super().__init__()
        names = config.fused_modalities
        self.graphs = nn.ModuleDict({name: _graph_attention(config) for name in names})
        self.co_attention = GraphFusionCoAttention(names, config.hidden_size)
        self.layers = nn.ModuleDict({name: GraphFusionEncoderLayer(config) for name in names})
        self.poolings = nn.ModuleDict({name: GraphFusionAttentivePooling(config.hidden_size) for name in names})

    def forward(self, states, masks, output_attentions=False):
        graphs = {name: self.graphs[name](values, masks[name], output_attentions) for name, values in states.items()}
        joined, attentions = self.co_attention(
            {name: out for name, (out, _) in graphs.items()}, masks, output_attentions
        )
        vectors = {}
        for name, values in joined.items():
            encoded, layer_weights = self.layers[name](values, masks[name], output_attentions)
            vectors[name], pooling_weights = self.poolings[name](encoded, masks[name])
            if output_attentions:
                attentions[f"{name}_graph"] = graphs[name][1]
                attentions[f"{name}_self"] = layer_weights
                attentions[f"{name}_pooling"] = pooling_weights
        return vectors, attentions


class GraphFusionGat(nn.Module):
    """
    Graph attention over the time steps of each modality, attentive pooling, then graph attention over the modalities as
    nodes, as the paper words it. A node that is absent sends nothing.
    """

    def __init__(self, config):
        super().__init__()
        names = config.fused_modalities
        self.graphs = nn.ModuleDict({name: _graph_attention(config) for name in names})
        self.poolings = nn.ModuleDict({name: GraphFusionAttentivePooling(config.hidden_size) for name in names})
        self.modality_graph = _graph_attention(config)

    def forward(self, states, masks, output_attentions=False):
        attentions, nodes = {}, []
        for name, values in states.items():
            hidden, graph_weights = self.graphs[name](values, masks[name], output_attentions)
            node, pooling_weights = self.poolings[name](hidden, masks[name])
            nodes.append(node)
            if output_attentions:
                attentions[f"{name}_graph"] = graph_weights
                attentions[f"{name}_pooling"] = pooling_weights
        present = torch.stack([masks[name].any(-1) for name in states], 1)
        out, weights = self.modality_graph(torch.stack(nodes, 1), present, output_attentions)
        if output_attentions:
            attentions["modalities"] = weights
        return dict(zip(states, out.unbind(1), strict=True)), attentions


class GraphFusionHcamBlock(nn.Module):
    """`h = x + Attention(x, y, y)`, `LayerNorm(h + Linear(h))`; without y (`None`) `h = x`."""

    def __init__(self, size: int, config):
        super().__init__()
        self.attention = GraphFusionMultiHeadAttention(size, config.num_attention_heads, config.dropout)
        self.proj = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, hidden_states, others, mask=None, output_attentions=False):
        weights = None
        if others is not None:
            attended, weights = self.attention(hidden_states, others, mask, output_attentions)
            hidden_states = hidden_states + attended
        return self.norm(hidden_states + self.proj(hidden_states)), weights


class GraphFusionHcam(nn.Module):
    """
    HCAM (arXiv 2304.06910) as the public code simplifies it: BiGRU, self-attention, cross-attention, attentive pooling;
    vectors of width `2 * hidden_size`. Modalities are updated in turn: the first attends to the others as they were, the
    next to what the first has become. With more than two, a modality attends to all the others' steps at once.
    """

    def __init__(self, config):
        super().__init__()
        names, size = config.fused_modalities, 2 * config.hidden_size
        self.grus = nn.ModuleDict(
            {
                name: nn.GRU(config.hidden_size, config.hidden_size, batch_first=True, bidirectional=True)
                for name in names
            }
        )
        self.self_blocks = nn.ModuleDict({name: GraphFusionHcamBlock(size, config) for name in names})
        self.cross_blocks = nn.ModuleDict({name: GraphFusionHcamBlock(size, config) for name in names})
        self.poolings = nn.ModuleDict({name: GraphFusionAttentivePooling(size) for name in names})

    def forward(self, states, masks, output_attentions=False):
        attentions, vectors, encoded = {}, {}, {}
        for name, values in states.items():
            # Packing wants one step at least; an absent modality's is not looked at.
            lengths = masks[name].sum(-1).clamp(min=1).cpu()
            packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
            hidden, _ = pad_packed_sequence(self.grus[name](packed)[0], batch_first=True, total_length=values.shape[1])
            encoded[name], weights = self.self_blocks[name](hidden, hidden, masks[name], output_attentions)
            if output_attentions:
                attentions[f"{name}_self"] = weights
        for name in states:
            others = [other for other in states if other != name]
            encoded[name], weights = self.cross_blocks[name](
                encoded[name],
                torch.cat([encoded[other] for other in others], 1) if others else None,
                torch.cat([masks[other] for other in others], 1) if others else None,
                output_attentions,
            )
            if output_attentions and others:
                attentions[f"{name}_to_others"] = weights
        for name in states:
            vectors[name], weights = self.poolings[name](encoded[name], masks[name])
            if output_attentions:
                attentions[f"{name}_pooling"] = weights
        return vectors, attentions


class GraphFusionTransformer(nn.Module):
    """One transformer layer a modality and the mean over time; modalities meet in the head only."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleDict({name: GraphFusionEncoderLayer(config) for name in config.fused_modalities})

    def forward(self, states, masks, output_attentions=False):
        attentions, vectors = {}, {}
        for name, values in states.items():
            encoded, weights = self.layers[name](values, masks[name], output_attentions)
            vectors[name] = masked_mean(encoded, masks[name])
            if output_attentions:
                attentions[f"{name}_self"] = weights
        return vectors, attentions


class GraphFusionConcat(nn.Module):
    """Nothing: the model averages over time before it projects, and one step is left of each modality."""

    def __init__(self, config):
        super().__init__()

    def forward(self, states, masks, output_attentions=False):
        return {name: values[:, 0] for name, values in states.items()}, {}


FUSION_CLASSES = {
    "mdat": GraphFusionMdat,
    "gat": GraphFusionGat,
    "hcam": GraphFusionHcam,
    "transformer": GraphFusionTransformer,
    "concat": GraphFusionConcat,
}
