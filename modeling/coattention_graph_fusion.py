"""Co-attention between modalities (MDAT, arXiv 2306.13804, as the public code of arXiv 2506.02088 has it)."""

import torch
from torch import nn

from .attention_graph_fusion import masked_softmax


class GraphFusionCoAttention(nn.Module):
    r"""
    `M = (A W_a) (T W_t)^T`; `A_co = A + softmax_t(M) T`, `T_co = T + softmax_a(M^T) A`: the values are not projected, the
    scores not scaled. With more than two modalities each takes up every other one in this way.
    """

    def __init__(self, modalities, size: int):
        super().__init__()
        self.projs = nn.ModuleDict({name: nn.Linear(size, size, bias=False) for name in modalities})

    def forward(
        self, states: dict[str, torch.Tensor], masks: dict[str, torch.Tensor], output_attentions: bool = False
    ):
        """
        Args:
            states (`dict[str, torch.Tensor]`): By modality `(batch, time, size)`.
            masks (`dict[str, torch.BoolTensor]`): By modality `(batch, time)`, True at valid steps.
            output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the weights too.

        Returns:
            `(dict[str, torch.Tensor], dict[str, torch.Tensor])`: By modality `(batch, time, size)`; and by
            `"<modality>_to_<other>"` weights `(batch, time, time of the other)`, empty unless asked for.
        """
        projected = {name: self.projs[name](values) for name, values in states.items()}
        joined, attentions = {}, {}
        for name, values in states.items():
            joined[name] = values
            for other in states:
                if other == name:
                    continue
                scores = projected[name] @ projected[other].transpose(1, 2)
                weights = masked_softmax(scores, masks[other][:, None, :], -1)
                joined[name] = joined[name] + weights @ states[other]
                if output_attentions:
                    attentions[f"{name}_to_{other}"] = weights
        return joined, attentions
