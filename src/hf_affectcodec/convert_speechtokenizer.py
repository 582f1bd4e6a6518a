"""Warm start from the public SpeechTokenizer: its state dict under AffectCodec's names."""

import re

import torch

from .modeling.configuration_affectcodec import AffectCodecConfig
from .modeling.modeling_affectcodec import AffectCodecModel


def _plain_weights(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Folds weight norm: `weight_g * weight_v / |weight_v|`, the norm over all axes but the first."""
    plain = {}
    for name, tensor in state_dict.items():
        if name.endswith("weight_v"):
            if name[:-1] + "g" not in state_dict:
                raise ValueError(f"`state_dict` holds {name!r} without its weight_g")
            length = state_dict[name[:-1] + "g"]
            norm = torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.dim())), keepdim=True)
            plain[name[: -len("_v")]] = length * tensor / norm
        elif not name.endswith("weight_g"):
            plain[name] = tensor
    return plain


def _stage_names(config: AffectCodecConfig, side: str) -> dict[int, str]:
    """Position in the reference's `nn.Sequential` -> module name here; activations take positions of their own."""
    names, position = {0: "conv_in"}, 1
    if side == "decoder":
        names[position] = "lstm"
        position += 1
    for stage in range(len(config.downsampling_ratios)):
        if side == "decoder":
            names[position + 1] = f"upsamplers.{stage}"
            position += 2
        for unit in range(config.num_residual_layers):
            names[position] = f"residual_units.{stage}.{unit}"
            position += 1
        if side == "encoder":
            names[position + 1] = f"downsamplers.{stage}"
            position += 2
    if side == "encoder":
        names[position] = "lstm"
        position += 1
    names[position + 1] = "conv_out"
    return names


def convert_state_dict(state_dict: dict[str, torch.Tensor], config: AffectCodecConfig) -> dict[str, torch.Tensor]:
    """
    SpeechTokenizer's weights (ZhangXInFD/SpeechTokenizer, PyPI `speechtokenizer` 1.0.1) -> names of [`AffectCodecModel`].

    Raises:
        ValueError: for a name that has no counterpart, or half a weight norm.
    """
    stages = {side: _stage_names(config, side) for side in ("encoder", "decoder")}
    converted = {}
    for name, tensor in _plain_weights(state_dict).items():
        match = re.fullmatch(r"(encoder|decoder)\.model\.(\d+)\.(.+)", name)
        if match and int(match[2]) in stages[match[1]]:
            side, position, rest = match[1], int(match[2]), match[3]
            rest = re.sub(r"^(block\.1|block\.3|shortcut)\.", lambda m: _UNIT_NAMES[m[1]] + ".", rest)
            rest = re.sub(r"conv(tr)?\.conv(tr)?\.", "", rest)
            converted[f"{side}.{stages[side][position]}.{rest}"] = tensor
        elif match := re.fullmatch(
            r"quantizer\.vq\.layers\.(\d+)\._codebook\.(inited|cluster_size|embed|embed_avg)", name
        ):
            # Their `embed_avg` is `embed` times the counts; it is not kept here.
            if match[2] != "embed_avg":
                converted[f"quantizer.layers.{match[1]}.{match[2]}"] = (
                    tensor.bool() if match[2] == "inited" else tensor
                )
        elif match := re.fullmatch(r"transform\.(weight|bias)", name):
            converted[f"alignment_head.{match[1]}"] = tensor
        else:
            raise ValueError(f"`state_dict` holds {name!r}, which SpeechTokenizer does not have")
    return converted


_UNIT_NAMES = {"block.1": "conv1", "block.3": "conv2", "shortcut": "shortcut"}


def from_speechtokenizer(state_dict: dict[str, torch.Tensor], **config_changes) -> AffectCodecModel:
    """
    An AffectCodec that computes what a SpeechTokenizer does, ready to train on.

    Args:
        state_dict: SpeechTokenizer's weights (`torch.load(..., weights_only=True)` of its checkpoint).
        config_changes: Entries of [`AffectCodecConfig`] that differ from the public checkpoint's (`num_filters=64`,
            `pad_mode="reflect"`); guidance modules, where configured, start at zero effect.

    Raises:
        ValueError: the weights are not SpeechTokenizer's, or of another size than the configuration.
    """
    config = AffectCodecConfig(**{"num_filters": 64, "pad_mode": "reflect", **config_changes})
    model = AffectCodecModel(config)
    converted = convert_state_dict(state_dict, config)
    for name, tensor in model.state_dict().items():
        if name in converted and converted[name].shape != tensor.shape:
            raise ValueError(
                f"`state_dict` does not fit the configuration (`num_filters`, `hidden_size`?): {name} has shape "
                f"{tuple(converted[name].shape)}, must have {tuple(tensor.shape)}"
            )
    missing, unexpected = model.load_state_dict(converted, strict=False)
    new = ("guidance.", "self_guidance.", "feature_distillation_heads.")
    missing = [name for name in missing if not name.startswith(new) and not name.endswith(".updates")]
    if missing or unexpected:
        raise ValueError(
            f"`state_dict` does not fit the configuration: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return model


__all__ = ["convert_state_dict", "from_speechtokenizer"]
