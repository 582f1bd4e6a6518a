"""Adversarial and feature-matching losses (AffectCodec, arXiv 2605.11098, appendix F)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def hinge_discriminator_loss(real_logits: Sequence[torch.Tensor], fake_logits: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""
    What the discriminators minimise: 1/K Σ_k mean max(0, 1 - D_k(x)) + mean max(0, 1 + D_k(x̂)).

    Args:
        real_logits (`Sequence[torch.Tensor]` of length K):
            Logits for recordings, one tensor of any shape for each discriminator.
        fake_logits (`Sequence[torch.Tensor]` of length K):
            Logits for decoded audio, computed from a detached waveform. Shapes may differ from `real_logits`.

    Returns:
        `torch.Tensor`: a float32 scalar.
    """
    _check_lengths("fake_logits", fake_logits, "real_logits", real_logits)
    losses = [
        F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()
        for real, fake in zip(real_logits, fake_logits, strict=True)
    ]
    return torch.stack(losses).mean()


def hinge_generator_loss(fake_logits: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""
    What the codec minimises: 1/K Σ_k mean max(0, 1 - D_k(x̂)).

    This is the paper's form (and EnCodec's). It stops pushing a logit above 1; the other common form, -mean D_k(x̂),
    never does and is not offered.

    Args:
        fake_logits (`Sequence[torch.Tensor]` of length K):
            Logits for decoded audio, one tensor of any shape for each discriminator.

    Returns:
        `torch.Tensor`: a float32 scalar.
    """
    _check_lengths("fake_logits", fake_logits)
    return torch.stack([F.relu(1 - fake.float()).mean() for fake in fake_logits]).mean()


def relative_feature_matching_loss(
    real_maps: Sequence[Sequence[torch.Tensor]], fake_maps: Sequence[Sequence[torch.Tensor]], eps: float = 1e-5
) -> torch.Tensor:
    r"""
    Relative distance of the feature maps: 1/K Σ_k 1/L_k Σ_l mean |D_kl(x) - D_kl(x̂)| / mean |D_kl(x)|, means over all
    elements. With L layers in every discriminator this is the paper's 1/(KL) ΣΣ; where they differ, each discriminator
    counts the same. Being relative, it cannot grow with the scale of the discriminators' weights.

    Args:
        real_maps (`Sequence[Sequence[torch.Tensor]]` of length K):
            Feature maps for recordings, by discriminator and layer. Gradients do not reach them: compute them under
            `torch.no_grad()`.
        fake_maps (`Sequence[Sequence[torch.Tensor]]` of length K):
            Feature maps for the decoded audio, of the same shapes.
        eps (`float`, *optional*, defaults to 1e-5):
            Lower bound of the denominator.

    Returns:
        `torch.Tensor`: a float32 scalar.
    """
    _check_lengths("fake_maps", fake_maps, "real_maps", real_maps)
    losses = []
    for index, (real_layers, fake_layers) in enumerate(zip(real_maps, fake_maps, strict=True)):
        _check_lengths(f"fake_maps[{index}]", fake_layers, f"real_maps[{index}]", real_layers)
        layer_losses = []
        for real, fake in zip(real_layers, fake_layers, strict=True):
            if real.shape != fake.shape:
                raise ValueError(
                    f"`fake_maps[{index}]` must have the shapes of `real_maps[{index}]`, "
                    f"got {tuple(fake.shape)} and {tuple(real.shape)}."
                )
            real = real.detach()
            # The sums are float32, the maps stay in their own precision: a float32 copy of each would double the cost.
            scale = real.abs().mean(dtype=torch.float32).clamp_min(eps)
            layer_losses.append((real - fake).abs().mean(dtype=torch.float32) / scale)
        losses.append(torch.stack(layer_losses).mean())
    return torch.stack(losses).mean()


def _check_lengths(name: str, values: Sequence, other_name: str | None = None, other_values: Sequence = ()):
    if len(values) == 0:
        raise ValueError(f"`{name}` must not be empty.")
    if other_name is not None and len(values) != len(other_values):
        raise ValueError(f"`{name}` must be as long as `{other_name}`, got {len(values)} and {len(other_values)}.")


__all__ = ["hinge_discriminator_loss", "hinge_generator_loss", "relative_feature_matching_loss"]
