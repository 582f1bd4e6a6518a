"""
Discrete tokens of an encoder's layer: k-means over its frames, and the files that keep the centroids.

Frames are z-scored channel by channel first. Layers of speech encoders have a few channels far larger than the others,
which would decide every distance alone.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..modeling.quantization_affectcodec import nearest_codes


_ASSIGNED_AT_ONCE = 16_384  # frames; bounds the table of distances


@dataclass
class LayerCentroids:
    """
    Args:
        centroids (`torch.Tensor` `[K, C]`): float32, of z-scored frames.
        mean, std (`torch.Tensor` `[C]`): What frames are z-scored with; 0 and 1 where they are not.
        metadata (`dict`): `num_clusters`, `frames`, `inertia` (mean squared distance of a z-scored frame to its centroid,
            summed over channels), `explained` (share of the variance that the centroids explain), `usage` (share of the
            clusters that any frame falls into), `perplexity` (of the clusters' shares), `seed`, `passes`, and what the
            caller adds.
    """

    centroids: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    metadata: dict


def assign_tokens(features: torch.Tensor, layer: LayerCentroids) -> torch.Tensor:
    """Frames `[N, C]` of a layer to the indices `[N]` of the centroids nearest to their z-scores, long."""
    scaled = (features.float() - layer.mean) / layer.std
    return torch.cat([nearest_codes(part, layer.centroids) for part in scaled.split(_ASSIGNED_AT_ONCE)])


def fit_layer(
    frames: Callable[[int], Iterable[np.ndarray]],
    num_clusters: int,
    seed: int = 0,
    passes: int = 10,
    batch_size: int = 10_000,
    standardize: bool = True,
) -> LayerCentroids:
    """
    k-means of one layer by scikit-learn's `MiniBatchKMeans`, in memory bounded by a batch: k-means++ on the first batch,
    then `passes` rounds over all frames, one update a batch.

    Args:
        frames (callable): Called with the number of the pass, 0, 1, ...; yields arrays `[n, C]`, those of a clip each.
            Every pass must have the same frames; an order of its own for each is better.
        num_clusters (`int`): K.
        seed (`int`, *optional*, defaults to 0): Of the start.
        passes (`int`, *optional*, defaults to 10): Rounds over the frames.
        batch_size (`int`, *optional*, defaults to 10000): Frames an update; at least K.
        standardize (`bool`, *optional*, defaults to `True`): z-scores the channels.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: There are fewer frames than clusters, or an argument is out of range.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ImportError("k-means needs `scikit-learn`: pip install 'hf-affectcodec[ser]'") from error

    for name, value in (("num_clusters", num_clusters), ("passes", passes)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if batch_size < num_clusters:
        raise ValueError(f"`batch_size` must be at least `num_clusters` ({num_clusters}), got {batch_size}")
    count, mean, std = channel_statistics(frames(0))
    if count < num_clusters:
        raise ValueError(f"`num_clusters` is {num_clusters}, and there are only {count} frames")
    variance = float((std**2).sum())
    if standardize:
        std = np.where(std > 0, std, 1.0)
        variance = float(len(std))
    else:
        mean, std = np.zeros_like(mean), np.ones_like(std)

    kmeans = MiniBatchKMeans(num_clusters, batch_size=batch_size, random_state=seed, compute_labels=False)
    for number in range(passes):
        for batch in _batches(frames(number), batch_size, num_clusters):
            kmeans.partial_fit(((batch - mean) / std).astype(np.float32))

    layer = LayerCentroids(
        torch.from_numpy(np.ascontiguousarray(kmeans.cluster_centers_, dtype=np.float32)),
        torch.from_numpy(mean.astype(np.float32)),
        torch.from_numpy(std.astype(np.float32)),
        {"num_clusters": num_clusters, "frames": count, "seed": seed, "passes": passes, "standardized": standardize},
    )
    layer.metadata |= _quality(layer, frames(0), variance)
    return layer


def channel_statistics(chunks: Iterable[np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of rows, and mean and standard deviation [C], float64."""
    count, total, squares = 0, 0.0, 0.0
    for chunk in chunks:
        chunk = np.asarray(chunk, np.float64)
        count, total, squares = count + len(chunk), total + chunk.sum(0), squares + (chunk**2).sum(0)
    if not count:
        raise ValueError("`frames` holds no frame")
    mean = total / count
    return count, mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _batches(chunks: Iterable[np.ndarray], batch_size: int, least: int) -> Iterator[np.ndarray]:
    """The rows of the chunks in batches; the last one is left out if it has fewer than `least` and is not the only one."""
    waiting, rows, whole = [], 0, False
    for chunk in chunks:
        waiting.append(chunk)
        rows += len(chunk)
        while rows >= batch_size:
            joined = np.concatenate(waiting)
            yield joined[:batch_size]
            whole = True
            waiting, rows = [joined[batch_size:]], rows - batch_size
    if rows >= least or (rows and not whole):
        yield np.concatenate(waiting)


def _quality(layer: LayerCentroids, chunks: Iterable[np.ndarray], variance: float) -> dict:
    counts, distance = torch.zeros(len(layer.centroids)), 0.0
    for chunk in chunks:
        features = torch.from_numpy(np.asarray(chunk, np.float32))
        tokens = assign_tokens(features, layer)
        distance += float(((features - layer.mean) / layer.std - layer.centroids[tokens]).double().square().sum())
        counts += torch.bincount(tokens, minlength=len(counts))
    shares = counts[counts > 0] / counts.sum()
    inertia = distance / float(counts.sum())
    return {
        "inertia": inertia,
        "explained": 1 - inertia / variance if variance else 1.0,
        "usage": float((counts > 0).float().mean()),
        "perplexity": float((-(shares * shares.log()).sum()).exp()),
    }


def centroids_path(folder: "str | os.PathLike", layer: int, num_clusters: int) -> Path:
    """Where the centroids of a layer are kept: `folder/layer-06_k-500.safetensors`."""
    return Path(folder) / f"layer-{layer:02d}_k-{num_clusters}.safetensors"


def save_centroids(layer: LayerCentroids, path: "str | os.PathLike"):
    """Writes a safetensors file with `centroids`, `mean`, `std` and the metadata; it appears whole or not at all."""
    path = Path(path)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    tensors = {"centroids": layer.centroids, "mean": layer.mean, "std": layer.std}
    try:
        save_file(tensors, temporary, metadata={"kmeans": json.dumps(layer.metadata)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_centroids(path: "str | os.PathLike") -> LayerCentroids:
    """
    Reads what [`save_centroids`] wrote.

    Raises:
        ValueError: There is no such file.
    """
    if not Path(path).is_file():
        raise ValueError(f"`path`: there are no centroids at {path}")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("centroids", "mean", "std")}
        return LayerCentroids(**tensors, metadata=json.loads(file.metadata()["kmeans"]))


def stack_layers(layers: Sequence[LayerCentroids]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Layers of one K to the arguments of `TokenFusionForAudioClassification.set_centroids`: `[L, K, C]`, `[L, C]`, `[L, C]`.
    """
    return tuple(torch.stack([getattr(layer, name) for layer in layers]) for name in ("centroids", "mean", "std"))
