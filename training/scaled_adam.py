"""
ScaledAdam and Eden, the optimizer and the schedule of the public VALL-E recipes.

They come from the Zipformer (Yao et al., arXiv 2310.11230, section 3.5): an Adam whose step is in proportion to the size of
the tensor, with that size learnt as one more parameter, so that one learning rate suits tensors of all sizes and the loss may
be of any scale.
"""

import math

import torch


def eden(
    base: float, step: int, epoch: float, warmup_steps: int, decay_steps: float = 5000, decay_epochs: float = 4
) -> float:
    """
    Learning rate `base (1 + (step / B)^2)^-1/4 (1 + (epoch / E)^2)^-1/4 w`, where w rises from 1/2 to 1 over the warm-up.

    Args:
        base (`float`): Rate that the others are fractions of.
        step (`int`): Batches seen, 0 at the first.
        epoch (`float`): Epochs seen.
        warmup_steps (`int`): W; 0: none.
        decay_steps, decay_epochs (`float`): B and E, about where the rate begins to fall.
    """
    warm = 0.5 + 0.5 * step / warmup_steps if step < warmup_steps else 1.0
    return base * warm * ((1 + (step / decay_steps) ** 2) * (1 + (epoch / decay_epochs) ** 2)) ** -0.25


class ScaledAdam(torch.optim.Optimizer):
    r"""
    For each tensor p of more than one element, with root mean square r (refreshed every `size_update_period` steps):
    `v = beta2 v + (1 - beta2) g^2`, `delta = beta1 delta - lr (1 - beta1) max(r, param_min_rms) g / (sqrt(v / c) + eps)`,
    `p += delta`, with `c = 1 - beta2^t` until that is 0.99, then 1. Every `size_update_period` steps the tensor as a whole
    is moreover scaled by a step on the logarithm of its size, whose gradient is `sum(p g)`. Tensors of one element take plain
    Adam steps of `lr scalar_lr_scale`.

    Args:
        params: Parameters, or groups of them.
        lr (`float`, *optional*, defaults to 0.05): Learning rate.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.95)`): Decay of the step and of squared gradients.
        clipping_scale (`float`, *optional*, defaults to 2.0):
            Gradients are scaled down where the norm of `r g` over all tensors passes this multiple of its recent median;
            `None`: never.
        clipping_update_period (`int`, *optional*, defaults to 1000): Norms that the median is of, and how often it is taken;
            before the first there is no clipping.
        scalar_lr_scale (`float`, *optional*, defaults to 0.1): Factor of the rate for sizes and for one-element tensors.
        eps (`float`, *optional*, defaults to 1e-8): Added to denominators.
        param_min_rms, param_max_rms (`float`, *optional*, default to 1e-5 and 3.0):
            Below the one a size is left alone, above the other it shrinks at the full rate.
        scalar_max (`float`, *optional*, defaults to 10.0): Largest magnitude of a one-element tensor before its step.
        size_update_period (`int`, *optional*, defaults to 4): Steps between updates of the sizes.
    """

    def __init__(
        self,
        params,
        lr: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        clipping_scale: float | None = 2.0,
        clipping_update_period: int = 1000,
        scalar_lr_scale: float = 0.1,
        eps: float = 1e-8,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
    ):
        if lr < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"`lr` must be at least 0 and `betas` in [0, 1), got {lr} and {betas}")
        if size_update_period < 1 or clipping_update_period < 1:
            raise ValueError("`size_update_period` and `clipping_update_period` must be at least 1")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "clipping_scale": clipping_scale,
            "clipping_update_period": clipping_update_period,
            "scalar_lr_scale": scalar_lr_scale,
            "eps": eps,
            "param_min_rms": param_min_rms,
            "param_max_rms": param_max_rms,
            "scalar_max": scalar_max,
            "size_update_period": size_update_period,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p in parameters:
                if "delta" not in self.state[p]:
                    self._start(p, group)
            # A tensor without a gradient now and then would lose the norms kept with it.
            clip = self._clip(group["params"][0], parameters, group) if parameters else None
            for p in parameters:
                grad = p.grad if clip is None else p.grad * clip
                if p.numel() == 1:
                    self._scalar_step(p, grad, self.state[p], group)
                else:
                    self._tensor_step(p, grad, self.state[p], group)
                self.state[p]["step"] += 1
        return loss

    def _start(self, p, group):
        state = self.state[p]
        state["step"] = 0
        state["delta"] = torch.zeros_like(p)
        state["exp_avg_sq"] = torch.zeros_like(p)
        if p.numel() > 1:
            state["param_rms"] = p.square().mean().sqrt()
            state["scale_exp_avg_sq"] = torch.zeros_like(state["param_rms"])
            state["scale_grads"] = p.new_zeros(group["size_update_period"])

    def _clip(self, first, parameters, group):
        """Factor of the gradients, a tensor; `None`: 1."""
        if group["clipping_scale"] is None:
            return None
        state = self.state[first]
        if "norms" not in state:
            state["norms"] = first.new_zeros(group["clipping_update_period"])
            state["norm_threshold"] = first.new_full((), math.inf)
            state["norm_count"] = 0
        scaled = [p.grad if p.numel() == 1 else p.grad * self.state[p]["param_rms"] for p in parameters]
        norm = torch.stack(torch._foreach_norm(scaled)).norm()
        count, period = state["norm_count"], group["clipping_update_period"]
        if count and count % period == 0:
            state["norm_threshold"] = group["clipping_scale"] * state["norms"].median()
        state["norms"][count % period] = norm
        state["norm_count"] = count + 1
        return (state["norm_threshold"] / (norm + 1e-20)).clamp(max=1.0)

    def _tensor_step(self, p, grad, state, group):
        beta1, beta2 = group["betas"]
        step, period, delta = state["step"], group["size_update_period"], state["delta"]
        delta.mul_(beta1)
        state["scale_grads"][step % period] = (p * grad).sum()
        if step % period == period - 1:
            state["param_rms"].copy_(p.square().mean().sqrt())
            delta.add_(p * self._size_step(state, group), alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        correction = 1 - beta2 ** (step + 1)
        variance = state["exp_avg_sq"] / correction if correction < 0.99 else state["exp_avg_sq"]
        size = state["param_rms"].clamp(min=group["param_min_rms"])
        delta.sub_(grad / (variance.sqrt() + group["eps"]) * (size * group["lr"] * (1 - beta1)))
        p.add_(delta)

    def _size_step(self, state, group):
        """Step of the logarithm of the tensor's size, before its momentum."""
        period, rate = group["size_update_period"], group["lr"] * group["scalar_lr_scale"]
        beta2 = group["betas"][1] ** period
        grads = state["scale_grads"]
        state["scale_exp_avg_sq"].mul_(beta2).add_(grads.square().mean(), alpha=1 - beta2)
        correction = math.sqrt(1 - beta2 ** ((state["step"] + 1) // period))
        step = -rate * correction * grads.sum() / (state["scale_exp_avg_sq"].sqrt() + group["eps"])
        step = torch.where(state["param_rms"] < group["param_min_rms"], 0.0, step)
        return torch.where(state["param_rms"] > group["param_max_rms"], -rate * period, step)

    def _scalar_step(self, p, grad, state, group):
        beta1, beta2 = group["betas"]
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        variance = state["exp_avg_sq"] / (1 - beta2 ** (state["step"] + 1))
        step = grad / (variance.sqrt() + group["eps"])
        state["delta"].mul_(beta1).sub_(step, alpha=group["lr"] * group["scalar_lr_scale"] * (1 - beta1))
        p.clamp_(-group["scalar_max"], group["scalar_max"]).add_(state["delta"])
