"""
Narrows the feed-forward layers of an `istft` codec, to make room for something else: the hidden units that say least are cut.

    python training/prune_codec.py --model RUN/model --intermediate-size 960 --data data/open-prompts/validation-*.parquet \
        --out runs/narrow

A unit's say is its mean absolute activation on the data times the length of its column in the down-projection. What is
written is a model for `initial_model` of a recipe, which should then train on: nothing is repaired here.
"""

import argparse
import glob
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from hf_affectcodec import AffectCodecConfig, AffectCodecFeatureExtractor, AffectCodecModel
from hf_affectcodec.data.clips import load_clips


@torch.no_grad()
def unit_importance(model: AffectCodecModel, waveforms) -> list[torch.Tensor]:
    """For each ConvNeXt block, encoder's first, the say [intermediate_size] of its hidden units."""
    blocks = [*model.encoder.blocks, *model.decoder.blocks]
    sums = [torch.zeros(model.config.intermediate_size) for _ in blocks]
    frames = 0
    hooks = [
        block.up_proj.register_forward_hook(
            lambda _, __, output, total=total: total.add_(F.gelu(output).abs().sum((0, 1)))
        )
        for block, total in zip(blocks, sums, strict=True)
    ]
    for waveform in tqdm(waveforms, desc="activations"):
        frames += model(waveform[None, None]).audio_codes.shape[-1]
    for hook in hooks:
        hook.remove()
    return [total / frames * block.down_proj.weight.norm(dim=0) for total, block in zip(sums, blocks, strict=True)]


@torch.no_grad()
def narrowed(model: AffectCodecModel, intermediate_size: int, waveforms) -> AffectCodecModel:
    """
    A copy with `intermediate_size` hidden units in each block; on `waveforms` [T] each its importance is measured.

    Raises:
        ValueError: The model has no such blocks, or not more units than asked for.
    """
    if model.config.backbone != "istft":
        raise ValueError("`model` must have the `istft` backbone")
    if not 1 <= intermediate_size < model.config.intermediate_size:
        raise ValueError(
            f"`intermediate_size` must lie in 1..{model.config.intermediate_size - 1}, got {intermediate_size}"
        )
    config = AffectCodecConfig.from_dict({**model.config.to_dict(), "intermediate_size": intermediate_size})
    small = AffectCodecModel(config).eval()
    state = model.state_dict()
    importance = unit_importance(model, waveforms)
    names = [f"encoder.blocks.{i}" for i in range(len(model.encoder.blocks))]
    names += [f"decoder.blocks.{i}" for i in range(len(model.decoder.blocks))]
    for name, says in zip(names, importance, strict=True):
        kept = says.topk(intermediate_size).indices.sort().values
        for part in ("up_proj.weight", "up_proj.bias"):
            state[f"{name}.{part}"] = state[f"{name}.{part}"][kept]
        state[f"{name}.down_proj.weight"] = state[f"{name}.down_proj.weight"][:, kept]
    small.load_state_dict(state)
    return small


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--intermediate-size", required=True, type=int)
    parser.add_argument("--data", required=True, nargs="+", help="Parquet files of speech")
    parser.add_argument("--clips", type=int, default=48, help="clips to measure on, spread over the data")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(arguments)
    model = AffectCodecModel.from_pretrained(args.model, dtype=torch.float32).eval()
    files = sorted(name for pattern in args.data for name in glob.glob(pattern))
    clips = load_clips(files, "train", None, model.config.sampling_rate, None).waveforms
    chosen = [torch.from_numpy(clip).float() / 32768 for clip in clips[:: max(1, len(clips) // args.clips)]]
    small = narrowed(model, args.intermediate_size, chosen)
    small.save_pretrained(args.out)
    AffectCodecFeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=model.hop_length).save_pretrained(
        args.out
    )
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (model, small)]
    print(f"{sizes[0]:.2f} M parameters -> {sizes[1]:.2f} M in {args.out}")


if __name__ == "__main__":
    main()
