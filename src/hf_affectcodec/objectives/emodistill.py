"""EmoDistill's objective: labels, the teachers' logits and the teachers' embeddings (arXiv 2309.04849)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class TeacherOutputs:
    """
    What a frozen teacher says of the items of a batch.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels)`): Scores before softmax.
        embeddings (`torch.Tensor` of shape `(batch, size)`): Embeddings; the student's projection has the same width.
    """

    logits: torch.Tensor
    embeddings: torch.Tensor


def logit_distillation_loss(
    logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float, temperature_squared: bool = True
) -> torch.Tensor:
    r"""
    KL(softmax(t / tau) || softmax(s / tau)), mean over the batch, times tau^2 where asked for.

    For tau -> infinity the gradient with tau^2 becomes that of matching centred logits, `((s - s̄) - (t - t̄)) / C` an item;
    without tau^2 it vanishes as 1 / tau^2. For tau -> 0 the target is the teacher's decision.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels)`): s, the student's.
        teacher_logits (`torch.Tensor` of shape `(batch, num_labels)`): t; no gradient flows to them.
        temperature (`float`): tau, positive.
        temperature_squared (`bool`, *optional*, defaults to `True`): Whether to multiply by tau^2.

    Returns:
        `torch.Tensor` of shape `()`, float32, 0 or more.

    Raises:
        ValueError: The shapes differ or are not `(batch, num_labels)`, or `temperature` is not positive.
    """
    if logits.dim() != 2 or logits.shape != teacher_logits.shape:
        raise ValueError(
            f"`teacher_logits` must have the shape (batch, num_labels) of `logits`, got {list(teacher_logits.shape)} and "
            f"{list(logits.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}")
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2 if temperature_squared else divergence


def embedding_distillation_loss(embeddings: torch.Tensor, teacher_embeddings: torch.Tensor) -> torch.Tensor:
    """
    1 - cos(z_S, z_T), mean over the batch.

    Args:
        embeddings (`torch.Tensor` of shape `(batch, size)`): The student's.
        teacher_embeddings (`torch.Tensor` of shape `(batch, size)`): The teacher's; no gradient flows to them.

    Returns:
        `torch.Tensor` of shape `()`, float32, 0 to 2.

    Raises:
        ValueError: The shapes differ or are not `(batch, size)`.
    """
    if embeddings.dim() != 2 or embeddings.shape != teacher_embeddings.shape:
        raise ValueError(
            f"`teacher_embeddings` must have the shape (batch, size) of `embeddings`, got "
            f"{list(teacher_embeddings.shape)} and {list(embeddings.shape)}"
        )
    return 1 - F.cosine_similarity(embeddings.float(), teacher_embeddings.detach().float(), dim=-1).mean()


def emodistill_loss(outputs, labels: torch.Tensor, config, linguistic=None, prosodic=None) -> dict[str, torch.Tensor]:
    r"""
    L = CE(y, s) + Σ_m λ_m KL(softmax(t_m / τ_m) || softmax(s / τ_m)) [τ_m²] + Σ_m μ_m (1 - cos(z_m^S, z_m^T)),
    m the linguistic and the prosodic teacher.

    Both divergences are of the one pair of logits that the student has.

    Args:
        outputs ([`EmoDistillOutput`]): The student's.
        labels (`torch.LongTensor` of shape `(batch,)`): y.
        config ([`EmoDistillConfig`]): Weights, temperatures and class weights.
        linguistic ([`TeacherOutputs`], *optional*): Needed where one of its weights is above 0.
        prosodic ([`TeacherOutputs`], *optional*): The same.

    Returns:
        `dict[str, torch.Tensor]`: `loss`, the weighted sum, and each of its terms before weighting: `cross_entropy`,
        `linguistic_logits`, `linguistic_embeddings`, `prosodic_logits`, `prosodic_embeddings`; those of weight 0 are left out.

    Raises:
        ValueError: A teacher that the weights ask for is missing, or a shape does not fit.
    """
    weight = None if config.class_weights is None else outputs.logits.new_tensor(config.class_weights).float()
    terms = {"cross_entropy": F.cross_entropy(outputs.logits.float(), labels, weight)}
    weights = {"cross_entropy": 1.0}
    for name, teacher, temperature, logit_weight, embedding_weight, embeddings in (
        (
            "linguistic",
            linguistic,
            config.linguistic_temperature,
            config.linguistic_logit_weight,
            config.linguistic_embedding_weight,
            outputs.linguistic_embeddings,
        ),
        (
            "prosodic",
            prosodic,
            config.prosodic_temperature,
            config.prosodic_logit_weight,
            config.prosodic_embedding_weight,
            outputs.prosodic_embeddings,
        ),
    ):
        if teacher is None and (logit_weight or embedding_weight):
            raise ValueError(f"`{name}` must be given: a weight of that teacher is above 0")
        if logit_weight:
            terms[f"{name}_logits"] = logit_distillation_loss(
                outputs.logits, teacher.logits, temperature, config.temperature_squared
            )
            weights[f"{name}_logits"] = logit_weight
        if embedding_weight:
            terms[f"{name}_embeddings"] = embedding_distillation_loss(embeddings, teacher.embeddings)
            weights[f"{name}_embeddings"] = embedding_weight
    return {"loss": sum(weights[name] * term for name, term in terms.items()), **terms}
