"""
The network of emotion2vec (Ma et al., arXiv 2312.15185): the data2vec 2.0 audio encoder of the released checkpoints,
as plain modules whose parameters have the names that the checkpoints use.

Waveform -> 7 convolutions (50 frames a second) -> linear -> plus 5 grouped convolutions for position -> 10 learned
tokens in front -> transformer blocks with ALiBi, in two groups (`context_encoder` and `blocks`) -> frames without the
tokens. What is needed only for training (masking, decoder, dropout, layer drop, the teacher) is left out.
"""

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Emotion2vecConfig:
    """
    Args:
        embed_dim (`int`): Channels C of the transformer.
        depth (`int`): Blocks of the second group.
        prenet_depth (`int`): Blocks of the first group.
        num_heads (`int`): Attention heads.
        mlp_ratio (`float`): Width of the feed-forward layers over C.
        norm_eps (`float`): Of the layer norms in the blocks.
        norm_affine (`bool`): Whether they have weight and bias.
        conv_layers (`tuple` of `(channels, kernel, stride)`): The feature encoder.
        conv_pos_width, conv_pos_depth, conv_pos_groups (`int`): Convolutions for position.
        num_extra_tokens (`int`): Learned tokens in front of the frames.
        alibi_scale_per_layer, alibi_scale_per_head (`bool`): What the learned ALiBi scale differs by.
        normalize (`bool`): Whether a waveform is brought to zero mean and unit variance first.
        num_classes (`int`): Size of the classification head; 0: there is none.
    """

    embed_dim: int
    depth: int
    prenet_depth: int
    num_heads: int
    mlp_ratio: float
    norm_eps: float
    norm_affine: bool
    conv_layers: tuple[tuple[int, int, int], ...]
    conv_pos_width: int
    conv_pos_depth: int
    conv_pos_groups: int
    num_extra_tokens: int
    alibi_scale_per_layer: bool
    alibi_scale_per_head: bool
    normalize: bool
    num_classes: int = 0

    @classmethod
    def from_model_conf(cls, conf: dict, num_classes: int) -> "Emotion2vecConfig":
        """
        Args:
            conf (`dict`): `model_conf` of a released `config.yaml`.
            num_classes (`int`): Lines of its `tokens.txt`, 0 where it has none.

        Raises:
            ValueError: A setting is none that a released checkpoint has, so that the network here is another.
        """
        audio = conf["modalities"]["audio"]
        expected = {
            "layer_norm_first": (conf["layer_norm_first"], False),
            "extractor_mode": (audio["extractor_mode"], "layer_norm"),
            "conv_pos_pre_ln": (audio["conv_pos_pre_ln"], False),
            "use_alibi_encoder": (audio["use_alibi_encoder"], True),
            "learned_alibi": (audio["learned_alibi"], False),
            "num_alibi_heads": (audio["num_alibi_heads"], conf["num_heads"]),
        }
        for name, (found, supported) in expected.items():
            if found != supported:
                raise ValueError(f"`conf`: {name} must be {supported!r}, got {found!r}")
        return cls(
            embed_dim=conf["embed_dim"],
            depth=conf["depth"],
            prenet_depth=audio["prenet_depth"],
            num_heads=conf["num_heads"],
            mlp_ratio=conf["mlp_ratio"],
            norm_eps=float(conf["norm_eps"]),  # YAML 1.1 reads 1e-05 as text
            norm_affine=conf["norm_affine"],
            conv_layers=parse_conv_layers(audio["feature_encoder_spec"]),
            conv_pos_width=audio["conv_pos_width"],
            conv_pos_depth=audio["conv_pos_depth"],
            conv_pos_groups=audio["conv_pos_groups"],
            num_extra_tokens=audio["num_extra_tokens"],
            alibi_scale_per_layer=audio["learned_alibi_scale_per_layer"],
            alibi_scale_per_head=audio["learned_alibi_scale_per_head"],
            normalize=conf["normalize"],
            num_classes=num_classes,
        )

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the feature encoder sees: a shorter waveform has no frame."""
        samples = 1
        for _, kernel, stride in reversed(self.conv_layers):
            samples = (samples - 1) * stride + kernel
        return samples


def parse_conv_layers(spec: str) -> tuple[tuple[int, int, int], ...]:
    """
    `"[(512, 10, 5)] + [(512, 3, 2)] * 4"` to a tuple of `(channels, kernel, stride)`, without running it as code.

    Raises:
        ValueError: The text is no sum of such lists.
    """
    layers = []
    for term in spec.split("+"):
        match = re.fullmatch(r"\s*\[\s*\((\d+),\s*(\d+),\s*(\d+)\)\s*,?\s*\]\s*(?:\*\s*(\d+)\s*)?", term)
        if match is None:
            raise ValueError(f"`spec` must be like '[(512, 10, 5)] + [(512, 3, 2)] * 4', got {spec!r}")
        layers += [(int(match[1]), int(match[2]), int(match[3]))] * int(match[4] or 1)
    return tuple(layers)


def alibi_slopes(num_heads: int) -> list[float]:
    """
    The slope of each head (Press et al., arXiv 2108.12409): 2^(-8 h / H) for h = 1..H where H is a power of two;
    otherwise those of the next lower power, and then every other one of twice that power.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    return slopes + [2 ** (-8 * h / (2 * power)) for h in range(1, 2 * (num_heads - power) + 1, 2)]


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of `[B, C, T]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class PositionConv(nn.Conv1d):
    """A grouped convolution `[B, C, T] -> [B, C, T]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[..., : x.shape[-1]]  # an even kernel makes one frame too many


class Attention(nn.Module):
    def __init__(self, config: Emotion2vecConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """x `[B, N, C]`, bias `[1, H, N, N]` added to the scores"""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: Emotion2vecConfig):
        super().__init__()
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, config.embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A transformer layer with its norms behind the sums."""

    def __init__(self, config: Emotion2vecConfig):
        super().__init__()
        self.attn = Attention(config)
        self.norm1 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)
        self.mlp = FeedForward(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, config.norm_eps, config.norm_affine)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attn(x, bias))
        return self.norm2(x + self.mlp(x))


class AudioEncoder(nn.Module):
    """From the waveform to the end of the first group of blocks."""

    def __init__(self, config: Emotion2vecConfig):
        super().__init__()
        self.config = config
        dim = config.embed_dim
        layers, channels = [], 1
        for out_channels, kernel, stride in config.conv_layers:
            conv = nn.Conv1d(channels, out_channels, kernel, stride, bias=False)
            # The Identity keeps the checkpoints' numbering, in which dropout comes second and the norm is wrapped.
            norm = nn.Sequential(nn.Identity(), ChannelLayerNorm(out_channels))
            layers.append(nn.Sequential(conv, nn.Identity(), norm, nn.GELU()))
            channels = out_channels
        self.local_encoder = nn.ModuleDict({"conv_layers": nn.ModuleList(layers)})
        self.project_features = nn.Sequential(nn.Identity(), nn.LayerNorm(channels), nn.Linear(channels, dim))
        width = max(3, config.conv_pos_width // config.conv_pos_depth)
        self.relative_positional_encoder = nn.Sequential(
            nn.Identity(),
            *(
                nn.Sequential(
                    PositionConv(dim, dim, width, padding=width // 2, groups=config.conv_pos_groups),
                    ChannelLayerNorm(dim, elementwise_affine=False),
                    nn.GELU(),
                )
                for _ in range(config.conv_pos_depth)
            ),
        )
        self.extra_tokens = nn.Parameter(torch.zeros(1, config.num_extra_tokens, dim))
        num_layers = config.prenet_depth + config.depth if config.alibi_scale_per_layer else 1
        num_heads = config.num_heads if config.alibi_scale_per_head else 1
        self.alibi_scale = nn.Parameter(torch.ones(num_layers, 1, num_heads, 1, 1))
        self.context_encoder = nn.ModuleDict(
            {
                "norm": nn.LayerNorm(dim, config.norm_eps, config.norm_affine),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.prenet_depth)),
            }
        )

    def biases(self, num_frames: int) -> list[torch.Tensor]:
        """What each block adds to its attention scores, `[1, H, N, N]`: 0 to and from the extra tokens."""
        num_blocks = self.config.prenet_depth + self.config.depth
        positions = torch.arange(num_frames, device=self.alibi_scale.device)
        distance = (positions[:, None] - positions[None]).abs()
        slopes = torch.tensor(alibi_slopes(self.config.num_heads), device=self.alibi_scale.device)
        bias = -slopes[:, None, None] * distance
        bias = F.pad(bias, (self.config.num_extra_tokens, 0, self.config.num_extra_tokens, 0))
        scaled = [bias * scale for scale in self.alibi_scale.clamp_min(0)]
        return scaled if self.config.alibi_scale_per_layer else scaled * num_blocks

    def forward(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`[B, T]` to `[B, extra + T', C]` and the biases of all blocks"""
        x = waveforms[:, None]
        for layer in self.local_encoder["conv_layers"]:
            x = layer(x)
        x = self.project_features(x.transpose(1, 2))
        x = x + self.relative_positional_encoder(x.transpose(1, 2)).transpose(1, 2)
        biases = self.biases(x.shape[1])
        x = torch.cat([self.extra_tokens.expand(len(x), -1, -1), x], dim=1)
        x = self.context_encoder["norm"](x)
        for block, bias in zip(self.context_encoder["blocks"], biases[: self.config.prenet_depth], strict=True):
            x = block(x, bias)
        return x, biases[self.config.prenet_depth :]


class Emotion2vec(nn.Module):
    """
    Args:
        config ([`Emotion2vecConfig`]): What the network looks like.
        labels (`tuple` of `str`, *optional*): Names of the classes, `config.num_classes` of them.
    """

    def __init__(self, config: Emotion2vecConfig, labels: tuple[str, ...] = ()):
        super().__init__()
        if len(labels) != config.num_classes:
            raise ValueError(f"`labels` must name {config.num_classes} classes, got {len(labels)}")
        self.config, self.labels = config, labels
        self.modality_encoders = nn.ModuleDict({"AUDIO": AudioEncoder(config)})
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.proj = nn.Linear(config.embed_dim, config.num_classes) if config.num_classes else None

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveforms (`torch.Tensor` [B, T]): At 16 kHz, of one length; there is no padding, so that an item gets the
                same frames in any batch.

        Returns:
            `torch.Tensor` [B, T', C]: Frames, 50 a second; T' = floor((T - 400) / 320) + 1 in released checkpoints.

        Raises:
            ValueError: The waveforms are shorter than one frame.
        """
        if waveforms.ndim != 2 or waveforms.shape[1] < self.config.receptive_field:
            raise ValueError(
                f"`waveforms` must have shape [B, T >= {self.config.receptive_field}], got {list(waveforms.shape)}"
            )
        if self.config.normalize:
            waveforms = F.layer_norm(waveforms, waveforms.shape[1:])
        x, biases = self.modality_encoders["AUDIO"](waveforms)
        for block, bias in zip(self.blocks, biases, strict=True):
            x = block(x, bias)
        return x[:, self.config.num_extra_tokens :]

    def class_logits(self, frames: torch.Tensor) -> torch.Tensor:
        """
        Frames [B, T', C] to logits [B, K] of the head on their mean.

        Raises:
            ValueError: The checkpoint has no head.
        """
        if self.proj is None:
            raise ValueError("`model` has no classification head; emotion2vec_plus_large has one")
        return self.proj(frames.mean(dim=1))
