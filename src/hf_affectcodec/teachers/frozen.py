"""What the teachers share: loading a frozen model without surprises, and checking waveforms."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache


# What released checkpoints may lack without harm: the mask of self-supervised training and poolers, which no feature depends
# on, and buffers that are always the same.
_HARMLESS = ("masked_spec_embed", "pooler.", "position_ids", "relative_position_index", "num_batches_tracked")


def load_frozen(
    model_class, source: "str | os.PathLike", revision: str, device: "str | torch.device" = "cpu", **arguments
) -> torch.nn.Module:
    """
    `model_class.from_pretrained` in float32, frozen and in evaluation mode, that fails where a weight is missing.

    transformers only warns and leaves such a weight random; a frozen random teacher would never be noticed.

    Raises:
        ValueError: The checkpoint lacks a weight that the features depend on.
    """
    model, loading = model_class.from_pretrained(
        source, revision=revision, dtype=torch.float32, output_loading_info=True, **arguments
    )
    missing = sorted(key for key in loading["missing_keys"] if not any(word in key for word in _HARMLESS))
    if missing:
        raise ValueError(
            f"`source` = {str(source)!r} lacks {len(missing)} weights of {model_class.__name__}: {missing[0]} ..."
        )
    return freeze(model).to(device)


def freeze(model: torch.nn.Module) -> torch.nn.Module:
    """The same module in evaluation mode and without gradients."""
    return model.eval().requires_grad_(False)


def commit_of(source: "str | os.PathLike", revision: str) -> str | None:
    """The commit that `revision` of a Hub id stands for in the local cache; `None` for a folder."""
    if Path(source).is_dir():
        return None
    cached = try_to_load_from_cache(str(source), "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else None


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers: it says which model this is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_waveforms(waveforms: Sequence[torch.Tensor]) -> None:
    """
    Raises:
        ValueError: An item is not a floating point tensor [T] with T > 0, or holds NaN or infinite samples.
    """
    if isinstance(waveforms, torch.Tensor):
        raise ValueError(f"`waveforms` must be a list of tensors [T], got one tensor {list(waveforms.shape)}")
    for index, waveform in enumerate(waveforms):
        if not isinstance(waveform, torch.Tensor) or not waveform.is_floating_point():
            what = waveform.dtype if isinstance(waveform, torch.Tensor) else type(waveform).__name__
            raise ValueError(f"`waveforms`: item {index} must be a floating point tensor, got {what}")
        if waveform.ndim != 1 or waveform.numel() == 0:
            raise ValueError(f"`waveforms`: item {index} must have shape [T] with T > 0, got {list(waveform.shape)}")
        if not bool(torch.isfinite(waveform).all()):
            raise ValueError(f"`waveforms`: item {index} holds NaN or infinite samples")
