"""What EmoDistill's student and teachers share."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput


@dataclass
class EmoDistillTeacherOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`): Cross-entropy, weighted by `config.class_weights`; with `labels` only.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Scores before softmax.
        embeddings (`torch.FloatTensor` of shape `(batch, size)`): What the last linear layer reads.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None


def check_mask(mask: torch.Tensor | None, name: str, values: torch.Tensor) -> torch.Tensor:
    """The mask [B, T] of values [B, T, ...] as bool; all true where there is none."""
    if mask is None:
        return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if mask.shape != values.shape[:2]:
        raise ValueError(f"`{name}` must have shape {tuple(values.shape[:2])}, got {tuple(mask.shape)}")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any() or not mask[:, 0].all():
        raise ValueError(f"`{name}` must be ones, at least one, then zeros")
    return mask


def weighted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config) -> torch.Tensor:
    weight = None if config.class_weights is None else logits.new_tensor(config.class_weights)
    return nn.functional.cross_entropy(logits, labels, weight)
