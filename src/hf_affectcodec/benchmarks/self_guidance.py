"""
Self-guidance against the teachers that it replaces: the same clips guided by eGeMAPS and Whisper, guided by the codec's own
predictions, and not guided; and what the paper's teachers at their real sizes would cost an encoder.

    python -m hf_affectcodec.benchmarks.self_guidance --model DIR --data data/open-prompts/test-00000-of-00001.parquet \
        --features data/features/open-prompts-train --whisper openai/whisper-base --out runs/self_guidance

`--features` is the folder that the model was trained on: its mean and standard deviation scale the teachers' features.
The table of quality is the codec table's (`codec_table.py`), clip by clip and paired against the teacher-guided row. Times are
taken in turns on one clip of `--seconds`.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from transformers import (
    ClapAudioConfig,
    ClapAudioModel,
    ClapFeatureExtractor,
    HubertConfig,
    HubertModel,
    Wav2Vec2FeatureExtractor,
)

from ..data.features import read_manifest
from ..modeling.modeling_affectcodec import AffectCodecModel
from ..teachers.clap import ClapTeacher
from ..teachers.egemaps import EgemapsTeacher
from ..teachers.frozen import weights_sha256
from ..teachers.hubert import HubertTeacher
from ..teachers.whisper import WhisperTeacher
from .codec_table import protocol, run, tabulate
from .speed import time_in_turns
from .tables import write_table


class GuidedCodec:
    """
    A codec of the table (see `codecs.Codec`) whose encoder is guided in one way.

    Args:
        model (`AffectCodecModel`): With guidance.
        guidance_source (`str`): `"features"`, `"self"` or `"none"`.
        teachers (`dict`): For `"features"`: by source (`"emotion"`, `"semantic"`) the teacher, and the mean and standard
            deviation `[C]` that scale its features.
    """

    def __init__(self, model: AffectCodecModel, guidance_source: str, teachers: dict | None = None):
        if (guidance_source == "features") != bool(teachers):
            raise ValueError("`teachers` must be given for `guidance_source='features'`, and only for it")
        self.model, self.guidance_source, self.teachers = model, guidance_source, teachers or {}
        self.name = {"features": "teacher-guided", "self": "self-guided", "none": "unguided"}[guidance_source]
        about = [teacher.description for teacher, _, _ in self.teachers.values()]
        self.fingerprint = f"{weights_sha256(model)} {guidance_source} {about}"

    @torch.inference_mode()
    def encode(self, waveform: torch.Tensor) -> torch.Tensor:
        """[T] -> codes [1, Q, F], with all that it takes to get there."""
        features = {
            f"{source}_features": ((teacher([waveform])[0] - mean) / std)[None]
            for source, (teacher, mean, std) in self.teachers.items()
        }
        return self.model.encode(waveform[None, None], guidance_source=self.guidance_source, **features).audio_codes

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        codes = self.encode(torch.from_numpy(waveform))
        audio = self.model.decode(codes).audio_values[0, 0, : len(waveform)]
        return audio.numpy(), codes.numel() * int(np.log2(self.model.config.codebook_size))


def scaled_teachers(features: str | Path, whisper: str) -> dict:
    """eGeMAPS and Whisper, scaled as the features in the folder `features` are when a model trains on them."""
    scales = read_manifest(features)["statistics"]
    teachers = {"emotion": EgemapsTeacher(), "semantic": WhisperTeacher.from_pretrained(whisper)}
    return {
        source: (teacher, torch.tensor(scales[source]["mean"]), torch.tensor(scales[source]["std"]))
        for source, teacher in teachers.items()
    }


def papers_teachers(seconds: float):
    """
    The paper's teachers, random weights at their real sizes (CLAP's HTSAT and HuBERT-base, for their cost alone): a function
    of one waveform `[T]`, and their parameters in millions.
    """
    torch.manual_seed(0)
    clap_model = ClapAudioModel(ClapAudioConfig(hidden_size=768, patch_embeds_hidden_size=96))
    clap = ClapTeacher(clap_model, ClapFeatureExtractor(truncation="rand_trunc"))
    hubert = HubertTeacher(HubertModel(HubertConfig()), Wav2Vec2FeatureExtractor(do_normalize=True))
    waveform = torch.randn(round(seconds * 16000)) * 0.1
    size = sum(p.numel() for teacher in (clap, hubert) for p in teacher.model.parameters()) / 1e6
    return lambda: (clap([waveform]), hubert([waveform])), size


def time_encoders(codecs: list[GuidedCodec], seconds: float, rounds: int) -> tuple[dict[str, float], float]:
    """Median seconds of encoding one clip by codec, and of the paper's teachers alone; their parameters in millions."""
    waveform = torch.randn(round(seconds * 16000)) * 0.1
    teachers, size = papers_teachers(seconds)
    functions = {codec.name: lambda codec=codec: codec.encode(waveform) for codec in codecs}
    with torch.inference_mode():
        taken = time_in_turns(functions | {"the paper's teachers alone": teachers}, rounds)
    return {name: statistics.median(values) for name, values in taken.items()}, size


def speed_table(medians: dict[str, float], teachers_size: float, seconds: float) -> str:
    own = medians["self-guided"]
    alone = medians.pop("the paper's teachers alone")
    rows = [(f"{name} encode", value) for name, value in medians.items()]
    rows.append((f"unguided encode and the paper's teachers ({teachers_size:.1f} M)", medians["unguided"] + alone))
    lines = [f"Encoding {seconds:g} s, {torch.get_num_threads()} threads, median:", ""]
    lines += ["| what | seconds | x real time | x self-guided |", "|---|---|---|---|"]
    lines += [f"| {name} | {value:.3f} | {seconds / value:.1f} | {value / own:.2f} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a codec with self-guidance")
    parser.add_argument("--data", required=True, type=Path, help="Parquet file of clips")
    parser.add_argument("--features", required=True, type=Path, help="teacher features that the model was trained on")
    parser.add_argument("--whisper", default="openai/whisper-base")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--limit", type=int, help="use the first clips only")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip that is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    model = AffectCodecModel.from_pretrained(args.model).eval()
    if not model.config.self_guidance:
        raise SystemExit(f"--model {args.model} has no self-guidance")
    teachers = scaled_teachers(args.features, args.whisper)
    codecs = [GuidedCodec(model, "features", teachers), GuidedCodec(model, "self"), GuidedCodec(model, "none")]
    speed = speed_table(*time_encoders(codecs, args.seconds, args.rounds), args.seconds)
    rows = run(codecs, args.data, args.out, args.limit)
    table = tabulate(codecs, rows, protocol(args.data), compare_to="teacher-guided")
    text = write_table(table, args.out) + "\n" + speed
    (args.out / "self_guidance.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
