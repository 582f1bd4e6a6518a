"""EmoDistill's prosodic teacher: a residual network over eGeMAPS low-level descriptors (arXiv 2309.04849)."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .attention_graph_fusion import masked_mean
from .configuration_emodistill import EmoDistillProsodicTeacherConfig
from .layers_emodistill import (
    EmoDistillTeacherOutput,
    check_mask,
    weighted_cross_entropy,
)
from .scaling_ser import SERFeatureScaler


class EmoDistillMaskedConv(nn.Module):
    """
    Convolution over time and batch normalisation, of valid frames only: padding is zero when it is convolved, as is what lies
    past a clip that is run alone, and it is no part of the batch's statistics.
    """

    def __init__(self, in_size: int, out_size: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(in_size, out_size, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm1d(out_size)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames [B, T, C] that are 0 where the mask [B, T] is false -> the same [B, ceil(T / stride), C'] and mask."""
        frames = self.conv(frames.transpose(1, 2)).transpose(1, 2)
        mask = mask[:, :: self.stride]
        normed = torch.zeros_like(frames)
        normed[mask] = self.norm(frames[mask]).to(frames.dtype)
        return normed, mask


class EmoDistillResidualBlock(nn.Module):
    """The basic block of ResNet (He et al., 2015): two convolutions, and around them the identity or a projection."""

    def __init__(self, in_size: int, out_size: int, kernel_size: int, stride: int):
        super().__init__()
        self.first = EmoDistillMaskedConv(in_size, out_size, kernel_size, stride)
        self.second = EmoDistillMaskedConv(out_size, out_size, kernel_size)
        same = in_size == out_size and stride == 1
        self.shortcut = None if same else EmoDistillMaskedConv(in_size, out_size, 1, stride)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, out_mask = self.first(frames, mask)
        hidden, _ = self.second(hidden.relu(), out_mask)
        around = frames if self.shortcut is None else self.shortcut(frames, mask)[0]
        return (hidden + around).relu(), out_mask


class EmoDistillProsodicTeacher(PreTrainedModel):
    """
    Low-level descriptors -> z-scores -> stem -> stages of residual blocks -> mean over the frames -> linear layer. A batch
    does not change a result in evaluation mode.

    The descriptors come from [`EmoDistillProsodicTeacherFeatureExtractor`], with which `pipeline("audio-classification")`
    runs this model on a wav.
    """

    config: EmoDistillProsodicTeacherConfig
    base_model_prefix = "emodistill_prosodic_teacher"
    main_input_name = "input_features"
    input_modalities = "audio"
    _keep_in_fp32_modules_strict = ["scaler"]

    def __init__(self, config: EmoDistillProsodicTeacherConfig):
        super().__init__(config)
        self.scaler = SERFeatureScaler(config.feature_size)
        size = config.hidden_sizes[0]
        self.stem = EmoDistillMaskedConv(config.feature_size, size, config.stem_kernel_size, stride=2)
        self.blocks = nn.ModuleList()
        for stage, (out_size, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                self.blocks.append(EmoDistillResidualBlock(size, out_size, config.kernel_size, stride))
                size = out_size
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, SERFeatureScaler):
            init.zeros_(module.mean)
            init.ones_(module.std)

    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor):
        """Mean and standard deviation `[feature_size]` that the descriptors are z-scored with."""
        self.scaler.set_statistics(mean, std)

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> EmoDistillTeacherOutput:
        r"""
        Args:
            input_features (`torch.Tensor` of shape `(batch, frames, feature_size)`): Descriptors, in openSMILE's units.
            attention_mask (`torch.Tensor` of shape `(batch, frames)`, *optional*): 0 at padding on the right.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes, 0..num_labels - 1.

        Returns:
            [`EmoDistillTeacherOutput`]; `embeddings` `(batch, hidden_sizes[-1])` are not negative.

        Raises:
            ValueError: naming the argument that is malformed.
        """
        size = self.config.feature_size
        if input_features.dim() != 3 or input_features.shape[-1] != size:
            raise ValueError(
                f"`input_features` must have shape (batch, frames, {size}), got {list(input_features.shape)}"
            )
        mask = check_mask(attention_mask, "attention_mask", input_features)
        frames = (self.scaler(input_features) * mask[..., None]).to(self.classifier.weight.dtype)
        frames, mask = self.stem(frames, mask)
        frames = frames.relu()
        for block in self.blocks:
            frames, mask = block(frames, mask)
        embeddings = masked_mean(frames, mask)
        logits = self.classifier(self.dropout(embeddings))
        loss = None if labels is None else weighted_cross_entropy(logits, labels, self.config)
        return EmoDistillTeacherOutput(loss=loss, logits=logits, embeddings=embeddings)


__all__ = ["EmoDistillProsodicTeacher"]
