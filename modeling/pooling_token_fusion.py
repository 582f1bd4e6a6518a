"""Attentive statistics pooling (Okabe et al., 2018)."""

import torch
from torch import nn


VARIANCE_FLOOR = 1e-5


class TokenFusionAttentiveStatisticsPooling(nn.Module):
    r"""
    Weighted mean and standard deviation over time:

        a_t = v^T tanh(W x_t + b)    w = softmax_t(a)    mu = sum_t w_t x_t    sigma^2 = sum_t w_t x_t^2 - mu^2

    with sigma^2 floored at 1e-5. Padded frames have weight 0.

    Args:
        hidden_size (`int`): Channels C of the frames.
        attention_size (`int`): Rows of W.
    """

    def __init__(self, hidden_size: int, attention_size: int):
        super().__init__()
        self.proj = nn.Linear(hidden_size, attention_size)
        self.score = nn.Linear(attention_size, 1, bias=False)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Frames [B, T, C] and their mask [B, T], true at valid frames, at least one a row -> [B, 2 C], mu then sigma."""
        scores = self.score(torch.tanh(self.proj(frames)))[..., 0].masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=1)[..., None]
        mean = (weights * frames).sum(dim=1)
        # around the mean, not as a difference of squares, which cancels where the mean is large
        variance = (weights * (frames - mean[:, None]).square()).sum(dim=1)
        return torch.cat([mean, variance.clamp(min=VARIANCE_FLOOR).sqrt()], dim=-1)
