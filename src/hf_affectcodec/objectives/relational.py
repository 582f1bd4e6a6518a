"""RP-Distill: frames keep the distances they have in the teachers (AffectCodec, arXiv 2605.11098, section 3.2.2)."""

import torch
import torch.nn.functional as F


def pairwise_distances(
    features: torch.Tensor, frame_mask: torch.Tensor, normalize: bool = True, eps: float = 1e-8
) -> torch.Tensor:
    r"""
    Euclidean distances between all frames of an item: r_tt' = ‖x_t - x_t'‖₂.

    Computed as d² / √(d² + eps), which differs from d by less than eps / 2d, is 0 at d = 0 (a frame and itself,
    silence, two frames with the same code) and has a finite gradient there. d² comes from a matrix of inner products,
    in float64 because float32 would lose small distances of long vectors. No tensor of (frames, frames, size) is made.

    Args:
        features (`torch.Tensor` of shape `(batch, frames, size)`):
            Features of any unit and precision. What stands at masked frames is not read.
        frame_mask (`torch.Tensor` of shape `(batch, frames)`):
            True (or 1) at valid frames.
        normalize (`bool`, *optional*, defaults to `True`):
            Divide each item's distances by their mean over its T'² pairs of valid frames, which makes spaces of
            different scale comparable. The paper states no scaling; public code of relational knowledge
            distillation (Park et al. 2019) divides by the mean of the positive distances. A mean below √eps counts as
            √eps, so an item without any distance stays at 0.
        eps (`float`, *optional*, defaults to 1e-8):
            In squared units of the features.

    Returns:
        `torch.Tensor` of shape `(batch, frames, frames)`, float32: 0 in rows and columns of masked frames. In the unit
        of the features, or without unit when normalised.

    Raises:
        `ValueError`: a shape does not fit, or `eps` is not positive.
    """
    frame_mask = _check_frames("features", features, frame_mask)
    if eps <= 0:
        raise ValueError(f"`eps` must be positive, got {eps}.")
    # Apple's devices have no float64.
    dtype = torch.float32 if features.device.type == "mps" else torch.float64
    with torch.autocast(features.device.type, enabled=False):
        values = features.masked_fill(~frame_mask[..., None], 0).to(dtype)
        products = values @ values.mT
        norms = products.diagonal(dim1=1, dim2=2)
        squares = (norms[:, :, None] + norms[:, None, :] - 2 * products).clamp_min(0).float()
        distances = squares * (squares + eps).rsqrt() * (frame_mask[:, :, None] & frame_mask[:, None, :])
    if normalize:
        mean = distances.sum((1, 2)) / frame_mask.sum(1).square().clamp_min(1)
        distances = distances / mean.clamp_min(eps**0.5)[:, None, None]
    return distances


def relational_loss(
    latents: torch.Tensor,
    emotion: torch.Tensor | None,
    semantic: torch.Tensor | None,
    frame_mask: torch.Tensor,
    alpha: float = 1.0,
    beta: float = 1.0,
    normalize: bool = True,
    eps: float = 1e-8,
) -> torch.Tensor:
    r"""
    L_rela = T'⁻² Σ_tt' α |r⁽¹⁾_tt' - r^emo_tt'| + β |r⁽¹⁾_tt' - r^sem_tt'| for each item, then the batch's mean.

    The latents are the output of the first quantizer, Q⁽¹⁾, as section 3.2.2 and appendix F.4 say; equations (6) and
    (7) of appendix F write r^uni instead. Table 9's rows are other latents handed in (means over more quantizers).

    Table 7 has five rows. Their labels are not at hand; our reading is: no distillation (do not call this);
    feature distillation (`feature_distillation_loss`, once for each teacher); relations of the emotion teacher only
    (`semantic=None`); relations of the semantic teacher only (`emotion=None`); both, the paper's method.

    A teacher that does not change over time has no distances. Normalised, it adds its constant weight and no gradient.

    Args:
        latents (`torch.Tensor` of shape `(batch, frames, hidden_size)`):
            Quantized latents of the student, of any precision.
        emotion (`torch.Tensor` of shape `(batch, frames, emotion_size)`, *optional*):
            Emotion teacher's features at codec frames. No gradient reaches them.
        semantic (`torch.Tensor` of shape `(batch, frames, semantic_size)`, *optional*):
            Semantic teacher's features at codec frames. No gradient reaches them.
        frame_mask (`torch.Tensor` of shape `(batch, frames)`):
            True (or 1) at valid frames. An item with one valid frame, or none, has loss 0.
        alpha (`float`, *optional*, defaults to 1.0): Weight of the emotion teacher.
        beta (`float`, *optional*, defaults to 1.0): Weight of the semantic teacher.
        normalize (`bool`, *optional*, defaults to `True`):
            Compare distances divided by their mean (`pairwise_distances`), else raw ones, as the equation is written.
        eps (`float`, *optional*, defaults to 1e-8): As in `pairwise_distances`.

    Returns:
        `torch.Tensor`: a float32 scalar.

    Raises:
        `ValueError`: no teacher is given, or a shape does not fit.
    """
    if emotion is None and semantic is None:
        raise ValueError("`emotion` and `semantic` must not both be None.")
    frame_mask = _check_frames("latents", latents, frame_mask)
    num_pairs = frame_mask.sum(1).square().clamp_min(1)
    student = pairwise_distances(latents, frame_mask, normalize, eps)
    total = latents.new_zeros(len(latents), dtype=torch.float32)
    for name, features, weight in (("emotion", emotion, alpha), ("semantic", semantic, beta)):
        if features is not None:
            _check_frames(name, features, frame_mask)
            with torch.no_grad():
                teacher = pairwise_distances(features, frame_mask, normalize, eps)
            total = total + weight * (student - teacher).abs().sum((1, 2)) / num_pairs
    return total.mean()


def feature_distillation_loss(
    predictions: torch.Tensor, features: torch.Tensor, frame_mask: torch.Tensor, eps: float = 1e-8
) -> torch.Tensor:
    r"""
    Match one teacher frame by frame: 1/T' Σ_t mean |p_t - x_t| - log σ(cos(p_t, x_t)), then the mean over the batch.

    The row "feature distillation" of Table 7, which relational distillation is compared with. We know no formula for
    it from the paper; this is the per-frame form in the public training code of SpeechTokenizer (arXiv 2308.16692).

    Args:
        predictions (`torch.Tensor` of shape `(batch, frames, size)`):
            The student's latents through a learned linear projection to the teacher's size: `projected_features` of a
            model with `feature_distillation_sources`.
        features (`torch.Tensor` of shape `(batch, frames, size)`):
            Teacher's features at codec frames. No gradient reaches them.
        frame_mask (`torch.Tensor` of shape `(batch, frames)`):
            True (or 1) at valid frames. An item with none has loss 0.
        eps (`float`, *optional*, defaults to 1e-8): Added to squared norms: a zero vector has a finite gradient.

    Returns:
        `torch.Tensor`: a float32 scalar.

    Raises:
        `ValueError`: a shape does not fit.
    """
    frame_mask = _check_frames("predictions", predictions, frame_mask)
    if features.shape != predictions.shape:
        raise ValueError(
            f"`features` must have the shape of `predictions`, "
            f"got {tuple(features.shape)} and {tuple(predictions.shape)}."
        )
    predictions = predictions.masked_fill(~frame_mask[..., None], 0).float()
    features = features.detach().masked_fill(~frame_mask[..., None], 0).float()
    norms = (predictions.square().sum(-1) + eps).sqrt() * (features.square().sum(-1) + eps).sqrt()
    cosines = (predictions * features).sum(-1) / norms
    frame_losses = (predictions - features).abs().mean(-1) - F.logsigmoid(cosines)
    return ((frame_losses * frame_mask).sum(1) / frame_mask.sum(1).clamp_min(1)).mean()


def _check_frames(name: str, values: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    """The mask as booleans, after a check that `values` is `(batch, frames, size)` and the mask `(batch, frames)`."""
    if values.ndim != 3:
        raise ValueError(f"`{name}` must have shape (batch, frames, size), got {tuple(values.shape)}.")
    if frame_mask.shape != values.shape[:2]:
        raise ValueError(
            f"`frame_mask` must have the batch and frames of `{name}`, "
            f"got {tuple(frame_mask.shape)} and {tuple(values.shape)}."
        )
    return frame_mask.bool()


__all__ = ["feature_distillation_loss", "pairwise_distances", "relational_loss"]
