"""SeqAug: some channels of a feature sequence have their time steps shuffled (arXiv 2506.02088)."""

import numpy as np
import torch


def seq_aug(
    features: torch.Tensor,
    generator: np.random.Generator,
    mask: torch.Tensor | None = None,
    probability: float = 0.5,
    concentration: float = 0.5,
) -> torch.Tensor:
    """
    With `probability` for each item by itself: draws a share `f ~ Beta(concentration, concentration)`, picks `floor(f * D)`
    channels at random, and puts the time steps of these channels, all in the same way, in random order.

    Args:
        features (`torch.Tensor` of shape `(batch, time, channels)`): Stays as it is.
        generator (`np.random.Generator`): Where the randomness comes from.
        mask (`torch.Tensor` of shape `(batch, time)`, *optional*): True at valid steps; the others keep their places.
        probability (`float`, *optional*, defaults to 0.5): Share of items that are changed, 0 to 1.
        concentration (`float`, *optional*, defaults to 0.5): Both parameters of the Beta distribution; 0.5 favours few or
            nearly all channels.

    Returns:
        `torch.Tensor` of shape `(batch, time, channels)`.
    """
    if features.dim() != 3:
        raise ValueError(f"`features` must have shape (batch, time, channels), got {tuple(features.shape)}")
    result = features.clone()
    channels = features.shape[-1]
    for item in range(len(features)):
        if generator.random() >= probability:
            continue
        count = int(generator.beta(concentration, concentration) * channels)
        chosen = torch.from_numpy(generator.permutation(channels)[:count])
        steps = torch.arange(features.shape[1]) if mask is None else mask[item].nonzero()[:, 0].cpu()
        order = steps[torch.from_numpy(generator.permutation(len(steps)))]
        result[item, steps[:, None], chosen] = features[item, order[:, None], chosen]
    return result
