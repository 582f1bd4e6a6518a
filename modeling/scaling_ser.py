"""Z-scores of features, by statistics that are saved with a model."""

import torch
from torch import nn


class SERFeatureScaler(nn.Module):
    """Features to z-scores by a mean and a standard deviation that are part of the weights; 0 and 1 until they are set."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features.float() - self.mean.float()) / self.std.float()

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor):
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.mean.shape:
                raise ValueError(f"`{name}` must have shape {list(self.mean.shape)}, got {list(value.shape)}")
        if not bool((std > 0).all()):
            raise ValueError(f"`std` must be positive, its least is {std.min().item()}")
        self.mean.copy_(mean)
        self.std.copy_(std)
