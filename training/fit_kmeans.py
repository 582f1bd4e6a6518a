"""
k-means over the layers of an encoder: what makes its frames discrete tokens.

    python training/fit_kmeans.py --source data/open-prompts --split train --encoder openai/whisper-base \\
        --layers 0 1 2 3 4 5 6 --clusters 256 512 1000 --output-dir kmeans/whisper-base

Any encoder of the Hub with `hidden_states` will do. It runs once over the clips, all layers at a time, into
`OUTPUT/layers` (float16: 50 frames a second of 512 channels in 7 layers are 0.36 MB a second; `--frames-per-clip` keeps a
random part). Then each layer and each K is fitted, in memory bounded by a batch, into `OUTPUT/layer-06_k-500.safetensors`:
centroids, the channels' mean and standard deviation, and as metadata inertia, usage, perplexity, seed and the encoder.

Run the command again and it goes on with the clips and layers that are missing.
"""

import argparse
import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sharded_output import AudioRows
from tqdm.auto import tqdm

from hf_affectcodec.data.kmeans_tokens import centroids_path, fit_layer, save_centroids
from hf_affectcodec.modeling.configuration_token_fusion import TokenFusionConfig
from hf_affectcodec.modeling.waveform_token_fusion import TokenFusionWaveformEncoder
from hf_affectcodec.teachers.frozen import weights_sha256


SAMPLING_RATE = 16_000  # Hz, of what the encoder is given; it resamples to its own


class StreamCache:
    """
    What an encoder or codec makes of the clips of a data set, on disk: hidden states `[F, L, C]` in float16, or codes
    `[F, L]`. Files of `shard_clips` clips appear whole or not at all; a clip is read alone, and one layer of it alone.

    Args:
        folder (`str` or `os.PathLike`): Folder of the files.
        clips (`int`): Number of clips of the data set.
        settings (`dict`): What the content depends on, fit for JSON; files of other settings are refused.
        shard_clips (`int`, *optional*, defaults to 64): Clips a file.

    Raises:
        ValueError: The folder holds files of other settings.
    """

    def __init__(self, folder: "str | os.PathLike", clips: int, settings: dict, shard_clips: int = 64):
        self.clips, self.shard_clips = clips, shard_clips
        self.settings = json.loads(json.dumps({**settings, "clips": clips, "shard_clips": shard_clips}))
        count = math.ceil(clips / shard_clips)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.paths = [self.folder / f"streams-{i:05d}-of-{count:05d}.safetensors" for i in range(count)]
        for path in self.folder.glob("streams-*.safetensors"):
            with safe_open(path, "pt") as file:
                theirs = json.loads(file.metadata()["settings"])
            differing = [key for key in self.settings if theirs.get(key) != self.settings[key]]
            if differing:
                raise ValueError(f"`folder`: {path} was made with another {differing[0]}; name another folder")

    def fill(self, rows: AudioRows, encoder: TokenFusionWaveformEncoder, frames_per_clip: int | None = None):
        """Runs the encoder over the clips of the files that are missing."""
        missing = [index for index, path in enumerate(self.paths) if not path.exists()]
        with tqdm(total=self.clips, unit="clip", desc="encoding") as bar:
            bar.update(self.clips - sum(self._size(index) for index in missing))
            for index in missing:
                first, tensors = index * self.shard_clips, {}
                clips = rows.read(first, first + self._size(index), SAMPLING_RATE)
                for number, (name, waveform, _) in enumerate(clips, first):
                    streams = encoder(waveform).cpu()
                    if streams.is_floating_point():
                        streams = streams.half()
                        if not bool(torch.isfinite(streams).all()):
                            raise ValueError(f"{name}: a hidden state is NaN, infinite or past float16")
                    if frames_per_clip is not None and len(streams) > frames_per_clip:
                        kept = np.random.default_rng([0, number]).permutation(len(streams))[:frames_per_clip]
                        streams = streams[torch.from_numpy(np.sort(kept))]
                    tensors[str(number)] = streams.contiguous()
                    bar.update()
                temporary = self.folder / f".{uuid.uuid4().hex}.tmp"
                save_file(tensors, temporary, metadata={"settings": json.dumps(self.settings)})
                os.replace(temporary, self.paths[index])

    def _size(self, shard: int) -> int:
        return min((shard + 1) * self.shard_clips, self.clips) - shard * self.shard_clips

    def read(self, index: int) -> torch.Tensor:
        """All streams of a clip, `[F, L, C]` float16 or `[F, L]` long."""
        with safe_open(self.paths[index // self.shard_clips], "pt") as file:
            return file.get_tensor(str(index))

    def frames(self, position: int, seed: int) -> Iterator[np.ndarray]:
        """The frames [F, C] of one stream, clip by clip, files and clips in an order drawn from the seed."""
        generator = np.random.default_rng(seed)
        for path in generator.permutation(self.paths):
            with safe_open(path, "pt") as file:
                for key in generator.permutation(sorted(file.keys())):
                    yield file.get_slice(str(key))[:, position].float().numpy()


def encoder_settings(encoder: TokenFusionWaveformEncoder, rows: AudioRows) -> dict:
    """What the content of a [`StreamCache`] depends on: the encoder and the clips."""
    config = encoder.config
    return {
        "model": config.tokenizer_model,
        "weights_sha256": weights_sha256(encoder.model),
        "kind": config.tokenizer_kind,
        "layers": config.tokenizer_layers,
        "num_streams": config.num_streams,
        "names": rows.names,
    }


def load_encoder(config: TokenFusionConfig) -> TokenFusionWaveformEncoder:
    """The configuration's encoder or codec, on the accelerator where there is one."""
    encoder = TokenFusionWaveformEncoder.from_config(config)
    if torch.accelerator.is_available():
        encoder.model.to(torch.accelerator.current_accelerator())
    return encoder


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="Hub id, folder or Parquet files")
    parser.add_argument("--split", default="train")
    parser.add_argument("--audio-column", default="audio")
    parser.add_argument("--encoder", required=True, help="Hub id or folder")
    parser.add_argument("--revision", default="main")
    parser.add_argument("--frame-rate", type=float, default=50.0, help="frames a second of the encoder")
    parser.add_argument(
        "--layers", type=int, nargs="+", required=True, help="hidden states; 0 is the first layer's input"
    )
    parser.add_argument("--clusters", type=int, nargs="+", default=[256, 512, 1000, 2000, 4000])
    parser.add_argument("--frames-per-clip", type=int, default=None, help="keep a random part of each clip")
    parser.add_argument("--passes", type=int, default=10, help="rounds over the frames")
    parser.add_argument("--batch-size", type=int, default=10_000, help="frames an update")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-standardize", action="store_true", help="take the channels as they are")
    parser.add_argument("--output-dir", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    rows = AudioRows(args.source, args.split, args.audio_column)
    config = TokenFusionConfig(
        num_streams=len(args.layers),
        tokenizer_model=args.encoder,
        tokenizer_revision=args.revision,
        tokenizer_layers=args.layers,
        tokenizer_frame_rate=args.frame_rate,
    )
    encoder = load_encoder(config)
    settings = {**encoder_settings(encoder, rows), "frames_per_clip": args.frames_per_clip}
    cache = StreamCache(args.output_dir / "layers", len(rows), settings)
    cache.fill(rows, encoder, args.frames_per_clip)
    jobs = [(layer, clusters) for layer in args.layers for clusters in args.clusters]
    for layer, clusters in tqdm(jobs, desc="k-means", unit="fit"):
        path = centroids_path(args.output_dir, layer, clusters)
        if path.exists():
            continue
        position = args.layers.index(layer)
        fitted = fit_layer(
            lambda number, position=position: cache.frames(position, args.seed + number),
            clusters,
            seed=args.seed,
            passes=args.passes,
            batch_size=max(args.batch_size, clusters),
            standardize=not args.no_standardize,
        )
        fitted.metadata |= {
            "model": args.encoder,
            "weights_sha256": settings["weights_sha256"],
            "layer": layer,
            "source": args.source,
            "split": args.split,
        }
        save_centroids(fitted, path)
        numbers = {key: round(fitted.metadata[key], 4) for key in ("inertia", "explained", "usage", "perplexity")}
        tqdm.write(f"layer {layer}, K = {clusters}: {json.dumps(numbers)}")


if __name__ == "__main__":
    main()
