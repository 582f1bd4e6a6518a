"""How classifiers vote, and the temperature that calibrates one."""

import math

import torch
import torch.nn.functional as F


TIE_BREAK = 1e-3  # of a vote: more than rounding, and never as much as a vote


def soft_vote(logits: torch.Tensor) -> torch.Tensor:
    """Logits `[B, M, C]` of M members -> log of the members' mean probabilities `[B, C]`."""
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])


def majority_vote(logits: torch.Tensor) -> torch.Tensor:
    """
    Each member votes for its most likely class. Among classes with equally many votes the one wins that the earliest member
    voted for: the vote of member m of M counts `1 - 0.001 m / M^2`.

    Args:
        logits (`torch.Tensor` of shape `(batch, members, classes)`): Scores before the softmax.

    Returns:
        `torch.Tensor` of shape `(batch, classes)`: log of each class's share of the votes; a class without any has the log of
        the smallest number of the type.
    """
    members = logits.shape[1]
    order = torch.arange(members, device=logits.device)
    # a class's first voter decides, whoever else votes for it: all its votes together lose less than the next member's one
    votes = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    voted = votes.cumsum(1) == 1
    first = (voted & votes.bool()).to(logits.dtype) * order[:, None]
    totals = votes.sum(1) - TIE_BREAK * first.sum(1) / members
    shares = totals.clamp(min=0) / totals.clamp(min=0).sum(-1, keepdim=True)
    return shares.clamp(min=torch.finfo(logits.dtype).tiny).log()


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """
    The temperature T > 0 with the least cross-entropy of `logits / T` (arXiv 1706.04599), by bisection: the cross-entropy is
    convex in 1 / T. Fit it on validation items: training items are answered too confidently.

    Args:
        logits (`torch.Tensor` of shape `(items, classes)`): Scores before the softmax.
        labels (`torch.LongTensor` of shape `(items,)`): Classes.

    Raises:
        ValueError: The shapes do not fit, or every item (or none) has its class on top, so that no T is best.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"`logits` must be [N, C] with `labels` [N], got {list(logits.shape)}, {list(labels.shape)}")
    logits = logits.detach().double()
    chosen = logits.gather(1, labels[:, None])[:, 0]
    slope_at_none = (chosen - logits.mean(1)).mean()  # of the likelihood, where 1 / T is 0
    slope_at_most = (chosen - logits.amax(1)).mean()  # where it is infinite
    if slope_at_none <= 0 or slope_at_most >= 0:
        raise ValueError("`labels`: the classes are all on top, or nowhere near it: no temperature is best")
    low, high = 1e-4, 1e4

    def slope(sharpness):
        return float((chosen - ((logits * sharpness).softmax(1) * logits).sum(1)).mean())

    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 1 / (low * high) ** 0.5
