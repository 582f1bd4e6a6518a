"""Residual vector quantizer with moving-average codebooks (van den Oord et al. 2017; Zeghidour et al. 2021, Algorithm 1)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from .layers_affectcodec import linear


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    if _world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def _all_gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows [N_r, C] of every rank, in rank order; N_r may differ between ranks."""
    world = _world_size()
    if world == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([rows.shape[0]], device=rows.device))
    longest = int(torch.stack(counts).max())
    padded = F.pad(rows, (0, 0, 0, longest - rows.shape[0])).contiguous()
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    return torch.cat([g[: int(n)] for g, n in zip(gathered, counts, strict=True)])


def nearest_codes(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Index of the nearest codebook row in Euclidean distance: vectors [N, C], codebook [K, C] -> [N] long."""
    # |v|^2 is the same for every code and is left out of the comparison.
    return linear(vectors, codebook, codebook.square().sum(-1).mul_(-0.5)).argmax(dim=-1)


def kmeans(vectors: torch.Tensor, num_clusters: int, iterations: int, generator: torch.Generator):
    """
    Lloyd's k-means from random rows. vectors [N, C] -> centroids [num_clusters, C], counts [num_clusters].

    Empty clusters start again at a random row, so every centroid lies near data; with fewer rows than clusters, rows
    repeat (the moving averages tell them apart later).
    """
    num_vectors = vectors.shape[0]
    if num_vectors >= num_clusters:
        start = torch.randperm(num_vectors, generator=generator)[:num_clusters]
    else:
        start = torch.randint(num_vectors, (num_clusters,), generator=generator)
    centroids = vectors[start.to(vectors.device)].clone()
    counts = vectors.new_zeros(num_clusters)
    for _ in range(iterations):
        nearest = nearest_codes(vectors, centroids)
        counts = vectors.new_zeros(num_clusters).index_add_(0, nearest, vectors.new_ones(num_vectors))
        sums = torch.zeros_like(centroids).index_add_(0, nearest, vectors)
        random_rows = torch.randint(num_vectors, (num_clusters,), generator=generator).to(vectors.device)
        centroids = torch.where((counts > 0)[:, None], sums / counts.clamp(min=1)[:, None], vectors[random_rows])
    return centroids, counts


class AffectCodecCodebook(nn.Module):
    """
    One Euclidean codebook whose entries are moving averages of the vectors assigned to them.

    Buffers: `embed` [K, C] the entries; `cluster_size` [K] the averaged counts (the averaged sums are their product and
    are not kept); `inited` whether k-means has run; `updates` the number of updates, which also seeds the choice of
    revived entries, so that every rank, and a resumed run, chooses alike.
    """

    def __init__(self, config):
        super().__init__()
        dim = config.codebook_dim or config.hidden_size
        self.decay = config.codebook_decay
        self.epsilon = config.codebook_epsilon
        self.kmeans_iterations = config.kmeans_iterations
        self.dead_code_ratio = config.dead_code_ratio
        self.register_buffer("embed", torch.zeros(config.codebook_size, dim))
        self.register_buffer("cluster_size", torch.zeros(config.codebook_size))
        self.register_buffer("inited", torch.zeros(1, dtype=torch.bool))
        self.register_buffer("updates", torch.zeros(1, dtype=torch.long))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.updates))

    @torch.no_grad()
    def initialize(self, vectors: torch.Tensor, num_batches: int = 1):
        """
        Start from k-means on the vectors [N, C] of all ranks, those of `num_batches` training batches.

        Every rank computes it; rank 0's result is sent to the others, since sums may differ in the last bit.
        """
        vectors = _all_gather_rows(vectors)
        # In an order of their own, so that the start does not depend on which rank holds which rows.
        vectors = vectors[vectors[:, 0].argsort(stable=True)]
        if vectors.shape[0] == 0:
            return
        centroids, counts = kmeans(vectors, self.embed.shape[0], self.kmeans_iterations, self._generator())
        if _world_size() > 1:
            dist.broadcast(centroids, 0)
            dist.broadcast(counts, 0)
        # An entry starts with at least the weight of uniform use, else it would be called dead at once.
        # Counts are those of one batch, as the moving average has them: more would hold the entries where they are.
        counts = counts.clamp(min=vectors.shape[0] / self.embed.shape[0]) / num_batches
        self.embed.copy_(centroids)
        self.cluster_size.copy_(counts)
        self.inited.fill_(True)

    @torch.no_grad()
    def update(self, vectors: torch.Tensor, codes: torch.Tensor):
        """One moving-average step from vectors [N, C] and their codes [N], over all ranks; then revive dead entries."""
        counts = torch.zeros_like(self.cluster_size).index_add_(0, codes, vectors.new_ones(codes.shape[0]))
        sums = torch.zeros_like(self.embed).index_add_(0, codes, vectors)
        _all_reduce(counts)
        _all_reduce(sums)
        averaged_sums = self.embed * self._smoothed_size() * self.decay + sums * (1 - self.decay)
        self.cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.embed.copy_(averaged_sums / self._smoothed_size())
        self._revive(vectors)
        self.updates += 1

    def _smoothed_size(self) -> torch.Tensor:
        """Laplace-smoothed counts [K, 1], of the same total; never zero."""
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.epsilon) / (total + self.cluster_size.numel() * self.epsilon) * total
        return smoothed.clamp(min=self.epsilon)[:, None]

    def _revive(self, vectors: torch.Tensor):
        # All of an entry's state is replaced, and after the update: otherwise the next average brings the dead entry back.
        uniform = self.cluster_size.mean()
        dead = self.cluster_size < self.dead_code_ratio * uniform
        if not dead.any():
            return
        candidates = _all_gather_rows(vectors)
        if candidates.shape[0] == 0:
            return
        chosen = torch.randint(candidates.shape[0], (int(dead.sum()),), generator=self._generator())
        revived = candidates[chosen.to(candidates.device)]
        self.embed[dead] = revived
        self.cluster_size[dead] = uniform


def _linear(layer: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """A linear layer in float32, also where the model was cast to less."""
    if isinstance(layer, nn.Identity):
        return hidden_states.float()
    return linear(hidden_states.float(), layer.weight.float(), layer.bias.float())


class AffectCodecResidualVectorQuantizer(nn.Module):
    """
    `num_quantizers` codebooks, each coding what the ones before left over. Computes in float32 whatever the autocast.

    With `codebook_dim` different from `hidden_size` a linear layer on each side changes the width.
    """

    def __init__(self, config):
        super().__init__()
        self.num_quantizers = config.num_quantizers
        self.codebook_size = config.codebook_size
        self.dropout = config.quantizer_dropout
        dim = config.codebook_dim or config.hidden_size
        projected = dim != config.hidden_size
        self.project_in = nn.Linear(config.hidden_size, dim) if projected else nn.Identity()
        self.project_out = nn.Linear(dim, config.hidden_size) if projected else nn.Identity()
        self.layers = nn.ModuleList([AffectCodecCodebook(config) for _ in range(config.num_quantizers)])

    def _apply(self, fn, recurse=True):
        # `model.to(torch.bfloat16)` moves codebooks but does not round them: codes would change.
        def keep_precision(tensor):
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_precision, recurse)

    @torch.no_grad()
    def initialize(self, hidden_states: torch.Tensor, num_batches: int = 1):
        """
        k-means start of all codebooks, one after the other, from latents [N, D] of `num_batches` training batches
        (together many more rows than entries).
        """
        residual = _linear(self.project_in, hidden_states)
        for codebook in self.layers:
            codebook.initialize(residual, num_batches)
            residual = residual - F.embedding(nearest_codes(residual, codebook.embed), codebook.embed)

    def encode(self, hidden_states: torch.Tensor, num_quantizers: int | None = None) -> torch.Tensor:
        """Latents [B, F, D] -> codes [B, Q, F] long, Q = `num_quantizers` or all."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            shape = hidden_states.shape[:2]
            residual = _linear(self.project_in, hidden_states).flatten(0, 1)
            codes = []
            for codebook in self.layers[:num_quantizers]:
                entries = codebook.embed.float()
                indices = nearest_codes(residual, entries)
                residual = residual - F.embedding(indices, entries)
                codes.append(indices.view(shape))
            return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes [B, Q, F] -> latents [B, F, D]; fewer codebooks than the model has give a coarser sum."""
        with torch.autocast(codes.device.type, enabled=False):
            total = sum(F.embedding(codes[:, q], self.layers[q].embed) for q in range(codes.shape[1]))
            return _linear(self.project_out, total)

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor, distillation_num_quantizers: int = 1):
        """
        The training pass: quantize, and in training mode update the codebooks from the valid frames.

        Args:
            hidden_states (`torch.Tensor` of shape `(batch, frames, hidden_size)`): Latents.
            frame_mask (`torch.Tensor` of shape `(batch, frames)`): True at valid frames; others touch no statistic.
            distillation_num_quantizers (`int`): Layers in the distillation latents (1 is the paper's Q(1)).

        Returns:
            quantized `(batch, frames, hidden_size)`, codes `(batch, quantizers, frames)`, commitment loss (a scalar: mean
            over layers, valid frames and channels of the squared error to the chosen entries), and the distillation
            latents `(batch, frames, hidden_size)`: the mean of the first n layers' outputs (Table 9).
            Gradients pass both outputs straight through to `hidden_states`.
        """
        with torch.autocast(hidden_states.device.type, enabled=False):
            latents = _linear(self.project_in, hidden_states)
            batch, frames, dim = latents.shape
            # A step that went wrong must not leave NaN in the codebooks: they are not undone with the optimizer's step.
            valid = frame_mask.reshape(-1) & latents.detach().reshape(-1, dim).isfinite().all(-1)
            if self.training and not bool(self.layers[0].inited):
                self.initialize(hidden_states.detach().reshape(batch * frames, -1)[valid])
            used = self._quantizers_used(batch, latents.device)

            residual = latents.detach().reshape(-1, dim)
            total = torch.zeros_like(residual)
            codes, losses = [], []
            flat = latents.reshape(-1, dim)
            for index, codebook in enumerate(self.layers):
                entries = codebook.embed.float()
                indices = nearest_codes(residual, entries)
                chosen = F.embedding(indices, entries)
                active = (used > index)[:, None].expand(batch, frames).reshape(-1)
                weight = (active & valid).float()[:, None]
                error = (flat - (total + chosen)).pow(2) * weight
                losses.append(error.sum() / (weight.sum() * dim).clamp(min=1))
                if self.training:
                    codebook.update(residual[valid], indices[valid])
                residual = residual - chosen
                total = total + chosen * active.float()[:, None]
                codes.append(indices.view(batch, frames))
                if index + 1 == distillation_num_quantizers:
                    distilled = total / distillation_num_quantizers
            quantized = latents + (total.view_as(latents) - latents).detach()
            distilled = latents + (distilled.view_as(latents) - latents).detach()
            loss = torch.stack(losses).mean()
            return (
                _linear(self.project_out, quantized),
                torch.stack(codes, dim=1),
                loss,
                _linear(self.project_out, distilled),
            )

    def _quantizers_used(self, batch: int, device: torch.device) -> torch.Tensor:
        used = torch.full((batch,), self.num_quantizers, device=device)
        if self.training and self.dropout > 0:
            drop = torch.rand(batch, device=device) < self.dropout
            used = torch.where(drop, torch.randint(1, self.num_quantizers, (batch,), device=device), used)
        return used


__all__ = ["AffectCodecCodebook", "AffectCodecResidualVectorQuantizer", "kmeans", "nearest_codes"]
