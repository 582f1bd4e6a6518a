"""EW-Align: frames are drawn to the text, most where emotion moves (AffectCodec, arXiv 2605.11098, Algorithm 1)."""

import torch
import torch.nn.functional as F


def window_centers(frame_lengths: torch.Tensor, text_lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
    r"""
    The token at which each frame's window is centred: i0 = clip(⌊t n / T'⌋, 1, n).

    Frames t = 1..T' and tokens 1..n count from 1, as in Algorithm 1; what is returned counts from 0: i0 - 1. The
    rounding is the algorithm's: where T' is at least n, the first token has nearly two shares of T' / n frames and the
    last token only the last frame.

    Args:
        frame_lengths (`torch.Tensor` of shape `(batch,)`, integer): T', valid frames of each item.
        text_lengths (`torch.Tensor` of shape `(batch,)`, integer): n, tokens of each item.
        num_frames (`int`): Frames of the padded batch.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames)`, int64: 0..n-1, without meaning at padding; -1 where n = 0.
    """
    frames = torch.arange(1, num_frames + 1, device=frame_lengths.device)
    lengths = text_lengths.to(frame_lengths.device).long()[:, None]
    centers = frames * lengths // frame_lengths.long().clamp_min(1)[:, None]
    return centers.clamp_min(1).minimum(lengths) - 1


def soft_text_targets(
    aligned_latents: torch.Tensor,
    text_features: torch.Tensor,
    text_lengths: torch.Tensor,
    frame_mask: torch.Tensor,
    window: int = 3,
    eps: float = 1e-8,
) -> torch.Tensor:
    r"""
    c*_t = Σ_i a_ti c_i with a_t = softmax_i cos(q_t, c_i) over the tokens |i - i0(t)| ≤ window, no temperature.

    Args:
        aligned_latents, text_features, text_lengths, frame_mask, window, eps: As in `alignment_loss`.

    Returns:
        `torch.Tensor` of shape `(batch, frames, size)`, float32, detached: 0 at masked frames and where n = 0.

    Raises:
        `ValueError`: a shape, a length or the window does not fit.
    """
    frame_mask, text_lengths = _check_alignment(aligned_latents, text_features, text_lengths, frame_mask, window)
    tokens = torch.arange(text_features.shape[1], device=aligned_latents.device)
    centers = window_centers(frame_mask.sum(1), text_lengths, aligned_latents.shape[1])
    candidates = (tokens - centers[..., None]).abs() <= window
    candidates = candidates & (tokens < text_lengths[:, None])[:, None, :] & frame_mask[..., None]
    with torch.no_grad(), torch.autocast(aligned_latents.device.type, enabled=False):
        text = text_features.masked_fill((tokens >= text_lengths[:, None])[..., None], 0).float()
        cosines = _unit(_masked(aligned_latents, frame_mask), eps) @ _unit(text, eps).mT
        # The smallest number, not -inf: a row without candidates must give zeros, not NaN.
        attention = cosines.masked_fill(~candidates, torch.finfo(torch.float32).min).softmax(-1) * candidates
        return attention @ text


def emotion_weights(
    emotion: torch.Tensor | None, frame_mask: torch.Tensor, temperature: float = 1.0, eps: float = 1e-8
) -> torch.Tensor:
    r"""
    γ = T' softmax(d / temperature) over valid frames, with d_1 = 0 and d_t = ‖e_t - e_{t-1}‖₁: mean 1 in each item.

    The features are divided by their L2 norm first. The paper does not say so, but a softmax over raw L1 distances of
    768 numbers would put nearly all weight on a few frames.

    Args:
        emotion (`torch.Tensor` of shape `(batch, frames, emotion_size)`, *optional*):
            Emotion teacher's features at codec frames, linearly interpolated: with repeated ones most d_t are 0. None
            for uniform weights, γ = 1.
        frame_mask (`torch.Tensor` of shape `(batch, frames)`): True (or 1) at valid frames, which come first.
        temperature (`float`, *optional*, defaults to 1.0):
            In the unit of d. 1 is Algorithm 1, larger values flatten the weights.
        eps (`float`, *optional*, defaults to 1e-8): Added to squared norms.

    Returns:
        `torch.Tensor` of shape `(batch, frames)`, float32, detached: 0 at masked frames.

    Raises:
        `ValueError`: a shape does not fit, or `temperature` is not positive.
    """
    frame_mask = frame_mask.bool()
    if emotion is None:
        return frame_mask.float()
    if emotion.ndim != 3 or emotion.shape[:2] != frame_mask.shape:
        raise ValueError(
            f"`emotion` must have shape (batch, frames, size) with the batch and frames of `frame_mask`, "
            f"got {tuple(emotion.shape)} and {tuple(frame_mask.shape)}."
        )
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    with torch.no_grad():
        unit = _unit(_masked(emotion, frame_mask), eps)
        changes = F.pad((unit[:, 1:] - unit[:, :-1]).abs().sum(-1), (1, 0))
        logits = (changes / temperature).masked_fill(~frame_mask, torch.finfo(torch.float32).min)
        return logits.softmax(-1) * frame_mask * frame_mask.sum(1, keepdim=True)


def alignment_loss(
    aligned_latents: torch.Tensor,
    text_features: torch.Tensor,
    text_lengths: torch.Tensor,
    emotion: torch.Tensor | None,
    frame_mask: torch.Tensor,
    window: int = 3,
    temperature: float = 1.0,
    eps: float = 1e-8,
) -> torch.Tensor:
    r"""
    L_align = -1/T' Σ_t γ_t log σ(cos(q_t, c*_t)) for each item, then the mean over the batch.

    Table 8 has four rows. Their labels are not at hand; our reading is hard or soft alignment, without or with emotion
    weights: `window=0` is hard (the one token at the frame's relative position), a window above 0 is soft;
    `emotion=None` weighs all frames alike. The paper's method is a soft window with emotion.

    Where the paper is silent: w = 3; c* is a constant for the gradient, which would else pass through the attention; q
    is Q⁽¹⁾ through a linear layer to the size of the text features; an empty transcript costs nothing.

    Args:
        aligned_latents (`torch.Tensor` of shape `(batch, frames, size)`):
            q, the latents in the space of the text features, of any precision.
        text_features (`torch.Tensor` of shape `(batch, tokens, size)`):
            c, one vector per token. No gradient reaches them; what stands behind `text_lengths` is not read.
        text_lengths (`torch.Tensor` of shape `(batch,)`, integer):
            n, tokens of each item. An item with n = 0 has loss 0 and still counts in the mean over the batch.
        emotion (`torch.Tensor` of shape `(batch, frames, emotion_size)`, *optional*):
            e, the emotion teacher's features at codec frames, for `emotion_weights`. None for uniform weights.
        frame_mask (`torch.Tensor` of shape `(batch, frames)`):
            True (or 1) at valid frames, which come first. An item without any has loss 0.
        window (`int`, *optional*, defaults to 3): w, tokens on either side of the centre.
        temperature (`float`, *optional*, defaults to 1.0): As in `emotion_weights`.
        eps (`float`, *optional*, defaults to 1e-8): Added to squared norms: a zero vector has a finite gradient.

    Returns:
        `torch.Tensor`: a float32 scalar.

    Raises:
        `ValueError`: a shape, a length, the window or the temperature does not fit.
    """
    targets = soft_text_targets(aligned_latents, text_features, text_lengths, frame_mask, window, eps)
    weights = emotion_weights(emotion, frame_mask, temperature, eps)
    frame_mask = frame_mask.bool()
    cosines = (_unit(_masked(aligned_latents, frame_mask), eps) * _unit(targets, eps)).sum(-1)
    item_losses = -(weights * F.logsigmoid(cosines)).sum(1) / frame_mask.sum(1).clamp_min(1)
    return (item_losses * (text_lengths.to(item_losses.device) > 0)).mean()


def _masked(values: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    """Float32 with zeros at masked frames, also where these hold NaN."""
    return values.masked_fill(~frame_mask[..., None], 0).float()


def _unit(values: torch.Tensor, eps: float) -> torch.Tensor:
    """Vectors of length 1, zero vectors as they are."""
    return values * (values.square().sum(-1, keepdim=True) + eps).rsqrt()


def _check_alignment(latents, text_features, text_lengths, frame_mask, window) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask as booleans and the lengths on the latents' device, after the checks of `alignment_loss`."""
    if latents.ndim != 3:
        raise ValueError(f"`aligned_latents` must have shape (batch, frames, size), got {tuple(latents.shape)}.")
    batch, frames, size = latents.shape
    if frame_mask.shape != (batch, frames):
        raise ValueError(f"`frame_mask` must have shape {(batch, frames)}, got {tuple(frame_mask.shape)}.")
    if text_features.ndim != 3 or (text_features.shape[0], text_features.shape[2]) != (batch, size):
        raise ValueError(
            f"`text_features` must have shape ({batch}, tokens, {size}), got {tuple(text_features.shape)}."
        )
    if text_lengths.shape != (batch,) or text_lengths.is_floating_point():
        raise ValueError(
            f"`text_lengths` must be {batch} integers, got {tuple(text_lengths.shape)} of {text_lengths.dtype}."
        )
    if ((text_lengths < 0) | (text_lengths > text_features.shape[1])).any():
        raise ValueError(
            f"`text_lengths` must lie in 0..{text_features.shape[1]}, the tokens of `text_features`, "
            f"got {text_lengths.tolist()}."
        )
    if window < 0:
        raise ValueError(f"`window` must not be negative, got {window}.")
    return frame_mask.bool(), text_lengths.to(latents.device)


__all__ = ["alignment_loss", "emotion_weights", "soft_text_targets", "window_centers"]
