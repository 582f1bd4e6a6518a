"""What teachers add to a training step: guidance, distillation and alignment losses, self-guidance (arXiv 2605.11098, 3.2)."""

import torch

from hf_affectcodec.data.features import TeacherFeatures
from hf_affectcodec.objectives.alignment import alignment_loss
from hf_affectcodec.objectives.relational import feature_distillation_loss, relational_loss


class TeacherCrops:
    """
    `RandomCrops` with the teachers' features of each crop: `emotion_features` and `semantic_features` [B, F, C],
    `text_features` [B, N, C] with `text_lengths` [B], each where `source` names a teacher for it.

    Args:
        crops: `RandomCrops` whose starts are multiples of the hop.
        names: Name of each of its clips in the cache.
        source: `TeacherSource` of the recipe.
    """

    def __init__(self, crops, names: list[str], source):
        self.crops, self.names = crops, names
        self.parts = {"emotion": source.emotion, "semantic": source.semantic, "text": source.text}
        self.parts = {part: teacher for part, teacher in self.parts.items() if teacher is not None}
        if not self.parts:
            raise ValueError("`teachers` names no teacher; give at least one of emotion, semantic and text")
        self.features = TeacherFeatures.load(source.folder, sorted(set(self.parts.values())), source.standardize)
        unknown = [name for name in names if name not in self.features]
        if unknown:
            raise ValueError(f"`teachers`: {source.folder} lacks {len(unknown)} clips, the first is {unknown[0]!r}")

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        batch = self.crops[step]
        names = [self.names[index] for index in batch["clip_index"].tolist()]
        features = self.features.batch(names, batch["start"].tolist(), self.crops.crop_samples)
        for part, teacher in self.parts.items():
            batch[f"{part}_features"] = features[teacher]
        if "text" in self.parts:
            batch["text_lengths"] = features[f"{self.parts['text']}_lengths"]
        return batch


def guidance_arguments(trainer, batch: dict) -> dict:
    """
    Guidance of a step: the teachers' features, or, in `self_guided_share` of the steps of a model with self-guidance, what it
    predicts itself, so that it meets in training what it meets when it encodes alone. A pure function of the step.
    """
    config = trainer.accelerator.unwrap_model(trainer.model).config
    features = {f"{source}_features": batch.get(f"{source}_features") for source in config.guidance_sources}
    if all(values is None for values in features.values()):
        return {}
    draw = torch.rand(
        (), generator=torch.Generator().manual_seed(trainer.recipe.seed * 1_000_003 + trainer.progress.step)
    )
    own = config.self_guidance and float(draw) < trainer.recipe.self_guided_share
    return {**features, "guidance_source": "self" if own else "features"}


def distillation_losses(recipe, outputs, batch: dict) -> dict[str, torch.Tensor]:
    """
    The terms with a weight above 0 among `relational`, `feature_distillation`, `alignment` and `self_guidance`, float32 scalars.

    Feature distillation is the sum over its teachers, as the relational loss is; self-guidance the mean over its sources.
    """
    weights, mask = recipe.loss_weights, outputs.audio_codes_mask
    emotion, semantic = batch.get("emotion_features"), batch.get("semantic_features")
    losses = {}
    if weights.relational:
        losses["relational"] = relational_loss(
            outputs.distillation_latents,
            emotion if recipe.relational_emotion else None,
            semantic if recipe.relational_semantic else None,
            mask,
            alpha=recipe.relational_emotion,
            beta=recipe.relational_semantic,
        )
    if weights.feature_distillation:
        losses["feature_distillation"] = torch.stack(
            [
                feature_distillation_loss(values, batch[f"{source}_features"], mask)
                for source, values in outputs.projected_features.items()
            ]
        ).sum()
    if weights.alignment:
        losses["alignment"] = alignment_loss(
            outputs.alignment_latents,
            batch["text_features"],
            batch["text_lengths"],
            emotion if recipe.alignment_by_emotion else None,
            mask,
            window=recipe.alignment_window,
            temperature=recipe.alignment_temperature,
        )
    if weights.self_guidance:
        losses["self_guidance"] = torch.stack(
            [
                _masked_mse(values, batch[f"{source}_features"], mask)
                for source, values in outputs.predicted_features.items()
            ]
        ).mean()
    return losses


def _masked_mse(predictions, targets, frame_mask):
    errors = (predictions.float() - targets).square().mean(-1)
    return (errors * frame_mask).sum() / frame_mask.sum().clamp(min=1)
