"""The training step of the codec: generator, discriminator, and the state that they share."""

import math
from dataclasses import asdict, dataclass

import torch
from codec_distillation import distillation_losses, guidance_arguments

from hf_affectcodec.objectives.adversarial import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    relative_feature_matching_loss,
)
from hf_affectcodec.objectives.spectral import multi_scale_mel_loss


@dataclass
class TrainProgress:
    """What a run must remember beyond weights, optimizers and random state."""

    step: int = 0
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, values: dict):
        for name, value in values.items():
            setattr(self, name, value)


@dataclass
class CodecTrainer:
    """Everything that a step touches. `discriminator` and its optimizer are `None` for a run without adversary."""

    accelerator: object
    recipe: object
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    discriminator: torch.nn.Module | None
    discriminator_optimizer: torch.optim.Optimizer | None
    progress: TrainProgress
    code_counts: torch.Tensor


def learning_rate_ratio(recipe, step: int) -> float:
    """Linear warm-up, then cosine from 1 to `final_learning_rate_ratio` at the last step; a pure function of the step."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    share = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return recipe.final_learning_rate_ratio + (1 - recipe.final_learning_rate_ratio) * cosine


def _optimizer_step(trainer, module, optimizer, loss, learning_rate) -> float:
    """Backward, clip, step. A non-finite gradient skips the step on every rank (gradients are already averaged)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    trainer.accelerator.backward(loss)
    norm = trainer.accelerator.clip_grad_norm_(module.parameters(), trainer.recipe.max_grad_norm)
    if not torch.isfinite(norm):
        trainer.progress.nonfinite_steps += 1
        trainer.progress.nonfinite_in_a_row += 1
        if trainer.progress.nonfinite_in_a_row > trainer.recipe.max_nonfinite_steps:
            raise RuntimeError(
                f"{trainer.progress.nonfinite_in_a_row} steps in a row had non-finite gradients; "
                "lower `learning_rate` or look at the data"
            )
        optimizer.zero_grad(set_to_none=True)
        return float("nan")
    trainer.progress.nonfinite_in_a_row = 0
    optimizer.step()
    return float(norm)


def adversary_active(recipe, step: int) -> bool:
    """Whether the adversarial terms count at this step; decided by the shared step counter only."""
    return recipe.discriminator is not None and step >= recipe.discriminator_start


def judged_part(trainer, real, fake):
    """The stretch that the discriminators see: everything, or one random stretch of `discriminator_crop_seconds`."""
    recipe = trainer.recipe
    if recipe.discriminator_crop_seconds is None:
        return real, fake
    samples = round(
        recipe.discriminator_crop_seconds * trainer.accelerator.unwrap_model(trainer.model).config.sampling_rate
    )
    start = int(torch.randint(max(1, real.shape[-1] - samples + 1), ()))
    return real[..., start : start + samples], fake[..., start : start + samples]


def discriminator_step(trainer: CodecTrainer, real: torch.Tensor, fake: torch.Tensor) -> dict[str, float]:
    """One step of the discriminators on waveforms [B, 1, T]; `fake` is detached."""
    trainer.discriminator.train()
    with trainer.accelerator.autocast():
        outputs = trainer.discriminator(torch.cat([real, fake.detach()]))
    half = real.shape[0]
    loss = hinge_discriminator_loss([d[:half] for d in outputs.logits], [d[half:] for d in outputs.logits])
    rate = trainer.recipe.discriminator_learning_rate * learning_rate_ratio(trainer.recipe, trainer.progress.step)
    norm = _optimizer_step(trainer, trainer.discriminator, trainer.discriminator_optimizer, loss, rate)
    return {"discriminator": float(loss.detach()), "discriminator_grad_norm": norm}


def _adversarial_losses(trainer, real, fake):
    # The bare module: DDP must not wait for gradients of parameters that are frozen here.
    discriminator = trainer.accelerator.unwrap_model(trainer.discriminator)
    discriminator.requires_grad_(False)
    with trainer.accelerator.autocast():
        with torch.no_grad():
            real_maps = discriminator(real).feature_maps
        outputs = discriminator(fake)
    discriminator.requires_grad_(True)
    return hinge_generator_loss(outputs.logits), relative_feature_matching_loss(real_maps, outputs.feature_maps)


def train_step(trainer: CodecTrainer, batch: dict) -> dict[str, float]:
    """
    One step of both networks on a batch with `input_values` [B, 1, T] and `padding_mask` [B, T], and, where the recipe has
    teachers, their features as `codec_distillation.TeacherCrops` adds them.

    Returns the scalars to log; advances `trainer.progress.step`.
    """
    recipe, weights = trainer.recipe, trainer.recipe.loss_weights
    real, padding_mask = batch["input_values"], batch["padding_mask"]
    trainer.model.train()
    config = trainer.accelerator.unwrap_model(trainer.model).config
    guidance = guidance_arguments(trainer, batch)
    with trainer.accelerator.autocast():
        outputs = trainer.model(real, padding_mask=padding_mask, **guidance)
    fake = outputs.audio_values.float()
    trainer.code_counts += count_codes(outputs, trainer.code_counts.shape[1])

    scalars = {}
    losses = {"mel": multi_scale_mel_loss(fake, real, config.sampling_rate), "commitment": outputs.loss}
    if weights.waveform:
        losses["waveform"] = (fake - real).abs().mean()
    losses |= distillation_losses(recipe, outputs, batch)
    if adversary_active(recipe, trainer.progress.step):
        real_part, fake_part = judged_part(trainer, real, fake)
        if trainer.progress.step % recipe.discriminator_every == 0:
            scalars |= discriminator_step(trainer, real_part, fake_part)
        losses["adversarial"], losses["feature"] = _adversarial_losses(trainer, real_part, fake_part)
    total = sum(getattr(weights, name) * loss for name, loss in losses.items())
    rate = recipe.learning_rate * learning_rate_ratio(recipe, trainer.progress.step)
    scalars["grad_norm"] = _optimizer_step(trainer, trainer.model, trainer.optimizer, total, rate)
    trainer.progress.step += 1
    scalars |= {name: float(loss.detach()) for name, loss in losses.items()}
    return scalars | {"total": float(total.detach()), "learning_rate": rate}


def count_codes(outputs, codebook_size: int) -> torch.Tensor:
    """How often each entry was used: [num_quantizers, codebook_size], valid frames only."""
    mask = outputs.audio_codes_mask
    codes = outputs.audio_codes.transpose(0, 1)[:, mask]
    return torch.stack([torch.bincount(layer, minlength=codebook_size) for layer in codes]).cpu()
