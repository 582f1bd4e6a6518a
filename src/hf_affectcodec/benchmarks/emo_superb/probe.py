"""
The probe of EMO-SUPERB, as s3prl builds it: a frozen upstream, a learned weighted sum of its hidden states, a linear
projector, the mean over time, and a linear classifier.

Everything between the hidden states and the softmax is linear, so the mean over time may be taken first. The result is
the same, and a clip is then `[layers, channels]` however long it is: that is what is kept on disk and trained on.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, WhisperConfig

from hf_affectcodec.audio import resample
from hf_affectcodec.teachers.frames import FrameTeacher
from hf_affectcodec.teachers.whisper import WhisperTeacher

from ..codecs import SAMPLING_RATE


@dataclass(frozen=True)
class ProbeSettings:
    """
    The benchmark's own settings. Its `total_steps` and `eval_step` amount to 50 epochs with one evaluation each (25, and
    a cosine schedule that is not built here, for MSP-PODCAST).

    Args:
        epochs (`int`): Passes over the training clips.
        batch_size (`int`): Clips a step.
        learning_rate, weight_decay (`float`): Of AdamW.
        max_grad_norm (`float`): Gradients are clipped to this norm.
        projector_size (`int`): Outputs of the projector.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    projector_size: int = 256


def load_upstream(source: str, revision: str = "main", device: str = "cpu") -> FrameTeacher:
    """An encoder by Hub id or folder; of a Whisper, its encoder with the frames of the clip only."""
    if isinstance(AutoConfig.from_pretrained(source, revision=revision), WhisperConfig):
        return WhisperTeacher.from_pretrained(source, revision=revision, device=device)
    return FrameTeacher.from_pretrained(source, revision=revision, device=device)


@torch.inference_mode()
def layer_means(upstream: FrameTeacher, waveform: np.ndarray) -> np.ndarray:
    """
    Means over time of all hidden states of a clip.

    Args:
        upstream ([`~hf_affectcodec.teachers.frames.FrameTeacher`]): See [`load_upstream`].
        waveform (`np.ndarray` [T]): At 16 kHz, no longer than the upstream's window.

    Returns:
        `np.ndarray` [L, C]: float32; layer 0 is the input of the first transformer layer.

    Raises:
        ValueError: The clip is longer than the upstream's window, or a state is not finite.
    """
    if upstream.window_samples is not None and waveform.size > upstream.window_samples:
        raise ValueError(f"`waveform` must have at most {upstream.window_samples} samples, got {waveform.size}")
    rate = upstream.processor.sampling_rate
    samples = resample(torch.from_numpy(waveform).float(), SAMPLING_RATE, rate).numpy()
    inputs = upstream.processor(samples, sampling_rate=rate, return_tensors="pt").to(upstream.model.device)
    states = torch.stack(upstream.model(**inputs, output_hidden_states=True).hidden_states)[:, 0]  # [L, T', C]
    num_frames = max(1, math.ceil(waveform.size * upstream.frame_rate / SAMPLING_RATE))
    means = states[:, :num_frames].mean(dim=1).float().cpu().numpy()
    if not np.isfinite(means).all():
        raise ValueError("`waveform`: the upstream's hidden states are not finite")
    return means


class Probe(nn.Module):
    """
    Args:
        num_layers, num_channels (`int`): Of the upstream's hidden states.
        num_classes (`int`): Classes.
        projector_size (`int`): Outputs of the projector.
    """

    def __init__(self, num_layers: int, num_channels: int, num_classes: int, projector_size: int):
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(num_layers))
        self.projector = nn.Linear(num_channels, projector_size)
        self.classifier = nn.Linear(projector_size, num_classes)

    def forward(self, layer_means: torch.Tensor) -> torch.Tensor:
        """`[B, L, C]` to logits `[B, K]`."""
        weighted = torch.einsum("l,blc->bc", self.layer_weights.softmax(dim=0), layer_means)
        return self.classifier(self.projector(weighted))


def class_balanced_weights(labels: torch.Tensor) -> torch.Tensor:
    """
    Weights by effective number of samples (Cui et al., arXiv 1901.05555), `(1 - b) / (1 - b^n_k)` with
    b = (N - 1) / N, scaled to sum to K. n_k counts the clips that have class k (share above 1 / K).

    A class that no training clip has gets weight 0, where the formula would divide by 0.

    Args:
        labels (`torch.Tensor` [N, K]): Distributions of the training clips.

    Returns:
        `torch.Tensor` [K]
    """
    num_items, num_classes = labels.shape
    counts = (labels > 1 / num_classes).sum(dim=0).double()
    beta = (num_items - 1) / num_items
    weights = torch.where(counts > 0, (1 - beta) / (1 - beta**counts), 0.0)
    return (weights / weights.sum() * num_classes).to(labels.dtype)


def soft_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    `mean_i (sum_k w_k t_ik) (- sum_k t_ik log p_ik)`: the cross-entropy of each item, weighted by its expected class
    weight.

    Args:
        logits (`torch.Tensor` [N, K]): Of the probe.
        labels (`torch.Tensor` [N, K]): Distributions t.
        weights (`torch.Tensor` [K]): See [`class_balanced_weights`].

    Returns:
        `torch.Tensor` []
    """
    return ((labels @ weights) * F.cross_entropy(logits, labels, reduction="none")).mean()


def train_probe(
    train: tuple[np.ndarray, np.ndarray], dev: tuple[np.ndarray, np.ndarray], settings: ProbeSettings, seed: int
) -> tuple[Probe, dict]:
    """
    Trains with AdamW; the probe with the lowest loss on the development clips, looked at after every epoch, is kept.

    Args:
        train, dev (`tuple`): Layer means [N, L, C] and labels [N, K].
        settings ([`ProbeSettings`]): How.
        seed (`int`): Of the initial weights and of the order of clips.

    Returns:
        `tuple`: The probe in evaluation mode, and `epoch`, `dev_loss` and `layer_weights` of the one kept.
    """
    train, dev = ([torch.from_numpy(array).float() for array in side] for side in (train, dev))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = Probe(train[0].shape[1], train[0].shape[2], train[1].shape[1], settings.projector_size)
    weights = class_balanced_weights(train[1])
    optimizer = torch.optim.AdamW(probe.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    best, kept = math.inf, None
    for epoch in range(1, settings.epochs + 1):
        for rows in torch.randperm(len(train[0]), generator=generator).split(settings.batch_size):
            optimizer.zero_grad()
            soft_cross_entropy(probe(train[0][rows]), train[1][rows], weights).backward()
            nn.utils.clip_grad_norm_(probe.parameters(), settings.max_grad_norm)
            optimizer.step()
        with torch.no_grad():
            loss = float(soft_cross_entropy(probe(dev[0]), dev[1], weights))
        if loss < best:
            best, kept = loss, (epoch, copy.deepcopy(probe.state_dict()))
    if kept is None:
        raise ValueError("`dev`: the loss was never finite")
    probe.load_state_dict(kept[1])
    layer_weights = probe.layer_weights.detach().softmax(dim=0).tolist()
    return probe.eval(), {"epoch": kept[0], "dev_loss": best, "layer_weights": layer_weights}


@torch.inference_mode()
def predict(probe: Probe, layer_means: np.ndarray) -> np.ndarray:
    """`[N, L, C]` to probabilities `[N, K]`."""
    return probe(torch.from_numpy(layer_means).float()).softmax(dim=1).numpy()
