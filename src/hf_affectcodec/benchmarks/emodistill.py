"""
Latency and size: the student on speech alone against what it stands for, both teachers with a recogniser before one of them.

    python -m hf_affectcodec.benchmarks.emodistill --student runs/emodistill/fold-00/model \\
        --linguistic-teacher runs/emodistill/fold-00/linguistic_teacher \\
        --prosodic-teacher runs/emodistill/fold-00/prosodic_teacher --recognizer openai/whisper-base --seconds 2 5 10

From a waveform to class scores, extraction of features included, in turns in one process, so that whatever else the machine
does falls on all. The clip is this package's demo clip, repeated or cut. What joins the teachers' scores costs nothing.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer

from ..audio import load_audio
from ..metrics.transcription import load_transcriber
from ..modeling.feature_extraction_emodistill import EmoDistillProsodicTeacherFeatureExtractor
from ..modeling.modeling_emodistill import EmoDistillForAudioClassification
from ..modeling.modeling_emodistill_linguistic_teacher import EmoDistillLinguisticTeacher
from ..modeling.modeling_emodistill_prosodic_teacher import EmoDistillProsodicTeacher
from ..shipped import demo_clip_path
from .speed import time_in_turns


SAMPLING_RATE = 16_000  # Hz
STUDENT = "student"
RECOGNIZER, LINGUISTIC, PROSODIC = "recogniser", "linguistic teacher", "prosodic teacher"
TEACHERS = "both teachers and recogniser"


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def load_student(folder: "str | Path") -> tuple[Callable, int]:
    """(waveform [T] -> logits [1, C], parameters)"""
    model = EmoDistillForAudioClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    return lambda waveform: model(**_extract(extractor, waveform)).logits, parameters(model)


def load_prosodic(folder: "str | Path") -> tuple[Callable, int]:
    """(waveform [T] -> logits [1, C], parameters)"""
    model = EmoDistillProsodicTeacher.from_pretrained(folder).eval()
    extractor = EmoDistillProsodicTeacherFeatureExtractor.from_pretrained(folder)
    return lambda waveform: model(**_extract(extractor, waveform)).logits, parameters(model)


def load_linguistic(folder: "str | Path") -> tuple[Callable, int]:
    """(transcript -> logits [1, C], parameters)"""
    model = EmoDistillLinguisticTeacher.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: model(**tokenizer(text, truncation=True, return_tensors="pt")).logits, parameters(model)


def _extract(extractor, waveform: np.ndarray):
    return extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")


@torch.inference_mode()
def measure(
    student: "str | Path",
    linguistic_teacher: "str | Path",
    prosodic_teacher: "str | Path",
    recognizer: "str | Path",
    waveform: np.ndarray,
    language: str = "en",
    rounds: int = 5,
) -> list[dict]:
    """
    Args:
        student, linguistic_teacher, prosodic_teacher, recognizer: Folders or Hub ids.
        waveform (`np.ndarray` [T]): Clip at 16 kHz.
        language (`str`, *optional*, defaults to `"en"`): That the recogniser is told.
        rounds (`int`, *optional*, defaults to 5): Measurements; the median counts.

    Returns:
        `list[dict]`: Rows `{"system", "parameters", "seconds", "ratio"}`; `ratio` is the seconds over the student's. The
        transcript is made anew in each round.
    """
    classify, student_size = load_student(student)
    read, linguistic_size = load_linguistic(linguistic_teacher)
    listen, prosodic_size = load_prosodic(prosodic_teacher)
    transcriber = load_transcriber(recognizer)

    def transcribe() -> str:
        return transcriber([waveform], SAMPLING_RATE, [language])[0]

    text = transcribe()
    sizes = {
        STUDENT: student_size,
        RECOGNIZER: parameters(transcriber.model),
        LINGUISTIC: linguistic_size,
        PROSODIC: prosodic_size,
    }
    functions = {
        STUDENT: lambda: classify(waveform),
        RECOGNIZER: transcribe,
        LINGUISTIC: lambda: read(text),
        PROSODIC: lambda: listen(waveform),
    }
    seconds = {name: statistics.median(values) for name, values in time_in_turns(functions, rounds).items()}
    sizes[TEACHERS] = sum(size for name, size in sizes.items() if name != STUDENT)
    seconds[TEACHERS] = sum(value for name, value in seconds.items() if name != STUDENT)
    return [
        {
            "system": name,
            "parameters": sizes[name],
            "seconds": seconds[name],
            "ratio": seconds[name] / seconds[STUDENT],
        }
        for name in sizes
    ]


def demo_waveform(seconds: float) -> np.ndarray:
    """The demo clip, repeated or cut to this length, [T] at 16 kHz."""
    clip = load_audio(demo_clip_path(), SAMPLING_RATE)[0].numpy()
    return np.resize(clip, round(seconds * SAMPLING_RATE))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("student", "linguistic-teacher", "prosodic-teacher", "recognizer"):
        parser.add_argument(f"--{name}", required=True, help="folder or Hub id")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0, 10.0], help="lengths of the clip")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each part; the median is printed")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    models = (args.student, args.linguistic_teacher, args.prosodic_teacher, args.recognizer)
    print(f"float32, {torch.get_num_threads()} threads, median of {args.rounds}\n")
    print("| clip, s | system | parameters, M | seconds | x student |")
    print("|---|---|---|---|---|")
    found = []
    for length in args.seconds:
        for row in measure(*models, demo_waveform(length), rounds=args.rounds):
            found.append({"clip_seconds": length, "threads": torch.get_num_threads(), **row})
            print(
                f"| {length:g} | {row['system']} | {row['parameters'] / 1e6:.1f} | {row['seconds']:.3f} | "
                f"{row['ratio']:.2f} |",
                flush=True,
            )
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
