"""
Computes the modalities of graph fusion of a data set once, so that training only reads them.

    accelerate launch training/extract_graph_features.py --recipe training/recipes/graph_fusion/is2025/ce.yaml \\
        --source data/msp-podcast --split train --label-column emotion --speaker-column speaker_id \\
        --transcripts text --f0-model full --output-dir features/msp-podcast

The recipe's `model` names the encoders (`speech_encoders`, `text_encoder`, `recognizer`); they are the very ones that the trained
model runs on a waveform, so a pipeline hears what training read. Of the challenge's systems (arXiv 2506.02088):

    Whisper-large-v3    speech_encoders: {audio: openai/whisper-large-v3}     true length; windows where a clip is over 30 s
    WavLM               speech_encoders: {audio: microsoft/wavlm-large}
    HuBERT              speech_encoders: {audio: facebook/hubert-large-ll60k}
    wav2vec 2.0         speech_encoders: {audio: facebook/wav2vec2-large-lv60}
    XEUS                speech_encoders: {audio: espnet/xeus}                 needs ESPnet from source
    CED-Small           speech_encoders: {sound: mispeech/ced-small}          one vector a clip; --trust-remote-code
    RoBERTa-large       text_encoder: FacebookAI/roberta-large                on --transcripts COLUMN, or on the recogniser's
    F0                  --f0-model full                                       256 bins; CREPE in place of RMVPE
    openSMILE           --opensmile-feature-set eGeMAPSv02                    descriptors (`lld`) or functionals

Several may be named at once, each with a modality of its own.

The result is what `train_graph_fusion.py` takes as `--features`: `items.json`, `<modality>.safetensors` with one tensor a clip
(float16, tokens int64), and `preprocessor_config.json`, the feature extractor that a trained model is to be saved with. A clip
without words has no text. Parts of 64 clips are written to `parts/`, each whole or not at all: run the command again and it
goes on. On several ranks each takes every n-th part, and whoever writes the last one joins them.
"""

import argparse
import json
import math
import os
import uuid
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sharded_output import AudioRows, process_state, sha256_of_names
from tqdm.auto import tqdm
from train_graph_fusion import load_recipe

from hf_affectcodec.modeling.configuration_graph_fusion import GraphFusionConfig
from hf_affectcodec.modeling.encoders_graph_fusion import GraphFusionEncoders
from hf_affectcodec.modeling.feature_extraction_graph_fusion import GraphFusionFeatureExtractor


SEPARATOR = "\t"  # between modality and clip in the names of a part's tensors


class PartCache:
    """
    Files of the features of `part_clips` clips each, with the settings that made them.

    Raises:
        ValueError: The folder holds parts of other settings.
    """

    def __init__(self, folder: Path, clips: int, settings: dict, part_clips: int = 64):
        self.clips, self.part_clips = clips, part_clips
        self.settings = json.loads(json.dumps({**settings, "clips": clips, "part_clips": part_clips}))
        count = math.ceil(clips / part_clips)
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = [folder / f"part-{index:05d}-of-{count:05d}.safetensors" for index in range(count)]
        for path in folder.glob("part-*.safetensors"):
            with safe_open(path, "pt") as file:
                theirs = json.loads(file.metadata()["settings"])
            differing = [key for key in self.settings if theirs.get(key) != self.settings[key]]
            if differing:
                raise ValueError(f"`--output-dir`: {path} was made with another {differing[0]}; name another folder")

    def range(self, part: int) -> tuple[int, int]:
        """First clip of a part, and the one after its last."""
        return part * self.part_clips, min((part + 1) * self.part_clips, self.clips)

    def write(self, part: int, tensors: dict[str, torch.Tensor]):
        """Writes a part; it appears whole or not at all."""
        _save(tensors, self.paths[part], {"settings": json.dumps(self.settings)})


def _save(tensors: dict, path: Path, metadata: dict | None = None):
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clip_features(
    waveform: torch.Tensor,
    transcript: str | None,
    encoders: GraphFusionEncoders,
    extractor: GraphFusionFeatureExtractor,
) -> dict[str, torch.Tensor]:
    """
    Args:
        waveform (`torch.Tensor` `[T]`): At 16 kHz.
        transcript (`str`, *optional*): Given words; `None`: the recogniser's, if there is one.

    Returns:
        `dict[str, torch.Tensor]`: By modality, float16 `[T', C]` or int64 `[T']`.

    Raises:
        ValueError: A feature does not fit into float16.
    """
    # whole frames, as the feature extractor hands them to a trained model
    waveform = torch.nn.functional.pad(waveform, (0, -len(waveform) % extractor.hop_length))
    tokens = None if transcript is None else encoders.tokenize(transcript)
    features = encoders(waveform, tokens)
    features |= {name: torch.tensor(values) for name, values in extractor.signal_features(waveform.numpy()).items()}
    for name, values in features.items():
        if values.is_floating_point():
            features[name] = values.half().cpu().contiguous()
            if not bool(torch.isfinite(features[name]).all()):
                raise ValueError(f"{name!r}: a feature is NaN, infinite or past float16")
    return features


def join(cache: PartCache, items: list[dict], output_dir: Path):
    """The parts to one file a modality, and `items.json` last."""
    names = {}
    for path in cache.paths:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                names.setdefault(key.partition(SEPARATOR)[0], []).append(path)
    for modality in sorted(names):
        tensors = {}
        for path in dict.fromkeys(names[modality]):
            stored = load_file(path)
            start = modality + SEPARATOR
            tensors |= {key.removeprefix(start): value for key, value in stored.items() if key.startswith(start)}
        _save(tensors, output_dir / f"{modality}.safetensors")
    (output_dir / "items.json").write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, type=Path, help="its `model` names the encoders")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    parser.add_argument("--source", required=True, help="Hub id, folder or Parquet files")
    parser.add_argument("--split", default="train")
    parser.add_argument("--config-name", default=None, help="configuration of a data set that has several")
    parser.add_argument("--audio-column", default="audio")
    parser.add_argument("--label-column", required=True)
    parser.add_argument("--speaker-column", required=True)
    parser.add_argument("--transcripts", default=None, metavar="COLUMN", help="given transcripts for the text encoder")
    parser.add_argument("--f0-model", choices=("full", "tiny"), default=None, help="F0 tokens by CREPE of this size")
    parser.add_argument("--f0-unvoiced", choices=("interpolate", "token"), default="interpolate")
    parser.add_argument("--opensmile-feature-set", choices=("eGeMAPSv02", "ComParE_2016"), default=None)
    parser.add_argument("--opensmile-level", choices=("lld", "functionals"), default="lld")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="lets an encoder's code from the Hub run (CED)"
    )
    parser.add_argument("--output-dir", required=True, type=Path)
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    state = process_state()
    recipe = load_recipe(args.recipe, args.set)
    config = GraphFusionConfig(**recipe.model, num_labels=len(recipe.labels))
    if args.transcripts is not None and config.text_encoder is None:
        raise ValueError("`--transcripts`: the recipe's model names no `text_encoder`")
    extractor = GraphFusionFeatureExtractor(
        sampling_rate=config.sampling_rate,
        opensmile_feature_set=args.opensmile_feature_set,
        opensmile_level=args.opensmile_level,
        f0_model=args.f0_model,
        f0_unvoiced=args.f0_unvoiced,
    )
    columns = [args.label_column, args.speaker_column, *([args.transcripts] if args.transcripts else [])]
    rows = AudioRows(args.source, args.split, args.audio_column, columns, args.config_name)
    encoding = ("speech_encoders", "text_encoder", "recognizer", "encoder_revisions", "encoder_window_seconds")
    settings = {
        **{name: getattr(config, name) for name in encoding},
        "extractor": extractor.to_dict(),
        "transcripts": args.transcripts,
        "names_sha256": sha256_of_names(rows.names),
    }
    cache = PartCache(args.output_dir / "parts", len(rows), settings)
    mine = range(state.process_index, len(cache.paths), state.num_processes)
    todo = [part for part in mine if not cache.paths[part].exists()]
    if todo:
        encoders = GraphFusionEncoders.from_config(config, state.device, args.trust_remote_code)
        for part in tqdm(todo, desc="features", unit="part", disable=not state.is_local_main_process):
            tensors = {}
            for name, waveform, row in rows.read(*cache.range(part), config.sampling_rate):
                transcript = (row[args.transcripts] or "") if args.transcripts else None
                for modality, values in clip_features(waveform, transcript, encoders, extractor).items():
                    tensors[f"{modality}{SEPARATOR}{name}"] = values
            cache.write(part, tensors)
    if all(path.exists() for path in cache.paths):
        table = rows.table(0, len(rows)).to_pylist()
        items = [
            {"name": name, "label": row[args.label_column], "speaker": row[args.speaker_column]}
            for name, row in zip(rows.names, table, strict=True)
        ]
        extractor.save_pretrained(args.output_dir)
        join(cache, items, args.output_dir)
    state.destroy_process_group()


if __name__ == "__main__":
    main()
