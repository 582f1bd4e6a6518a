"""Class weights, and how balanced sampling changes over a run (arXiv 2506.02088)."""

import numpy as np


SCHEDULES = ("constant", "to_uniform", "to_distribution")


def class_weights(labels, num_classes: int) -> np.ndarray:
    """
    `N / N_class`, for the loss and for sampling.

    Args:
        labels (array [N]): Classes of the training items.
        num_classes (`int`): Number of classes.

    Returns:
        `np.ndarray` [num_classes]: 1 and up.

    Raises:
        ValueError: A label is out of range, or a class has no item.
    """
    labels = np.asarray(labels)
    if not labels.size or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"`labels` must be classes in 0..{num_classes - 1}, at least one")
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise ValueError(f"`labels` has no item of classes {np.flatnonzero(counts == 0).tolist()}")
    return len(labels) / counts


def scheduled_weights(weights, epoch: int, num_epochs: int, schedule: str) -> np.ndarray:
    """
    Class weights of an epoch, for `torch.utils.data.WeightedRandomSampler` (each item its class's).

    Args:
        weights (array [C]): Those that balance the classes, see [`class_weights`].
        epoch (`int`): From 0.
        num_epochs (`int`): Epochs of the run.
        schedule (`str`): `"constant"`: always balanced. `"to_uniform"`: linearly from `weights` to 1, so from balanced
            classes to the data's own distribution. `"to_distribution"`: from 1 to `weights`. (The names are the public
            code's: uniform are the weights, not the classes.)

    Returns:
        `np.ndarray` [C].

    Raises:
        ValueError: There is no such schedule, or `epoch` does not lie in the run.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {SCHEDULES}, got {schedule!r}")
    if not 0 <= epoch < num_epochs:
        raise ValueError(f"`epoch` must lie in 0..{num_epochs - 1}, got {epoch}")
    weights = np.asarray(weights, dtype=np.float64)
    passed = epoch / max(num_epochs - 1, 1)
    share = {"constant": 1.0, "to_uniform": 1 - passed, "to_distribution": passed}[schedule]
    return share * weights + (1 - share)
