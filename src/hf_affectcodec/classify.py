"""Emotion of recordings: what `affectcodec classify` does."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, AutoConfig, pipeline

from .audio import audio_files, load_audio
from .inference import _one_line, _quiet_transformers


def load_classifier(source: "str | os.PathLike", device: str | None = None):
    """
    `pipeline("audio-classification")` of a recogniser, in one line where that fails.

    Args:
        source (`str` or `os.PathLike`):
            Folder or Hub id of any audio classifier with a feature extractor: token fusion, graph fusion, EmoDistill, an ensemble
            of them, or transformers' own.
        device (`str`, *optional*): Where it runs. Default: `"cuda"` if there is one, else `"cpu"`.

    Raises:
        `ImportError`: A package that its feature extractor needs is missing.
        `ValueError`: `source` cannot be loaded, or classifies no audio.
    """
    source = str(source)
    if not Path(source).is_dir():
        try:
            validate_repo_id(source)
        except HFValidationError as error:
            raise ValueError(f"`model` must be a folder that exists or a Hub id, got {source!r}") from error
    with _quiet_transformers():
        # foreign and damaged files make transformers and safetensors raise nearly anything, over many lines
        try:
            config = AutoConfig.from_pretrained(source)
            if type(config) not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
                raise ValueError(f"of type {config.model_type!r}, it classifies no audio")
            return pipeline("audio-classification", model=source, device=device, dtype="float32")
        except ImportError:
            raise
        except Exception as error:
            raise ValueError(f"`model` {source!r} cannot be loaded: {_one_line(error)}") from error


def classify(
    classifier, paths: Iterable["str | os.PathLike"]
) -> Iterator[tuple[Path, dict[str, float] | ValueError | OSError]]:
    """
    Args:
        classifier: From [`load_classifier`].
        paths: Audio files, of any format, rate and number of channels that [`~hf_affectcodec.audio.load_audio`] reads.

    Yields:
        `tuple`: each file, and the probability of each class, most likely first, or what was wrong with it.
    """
    rate = classifier.feature_extractor.sampling_rate
    for path in map(Path, paths):
        try:
            waveform = load_audio(path, rate)[0].numpy()
            rows = classifier({"array": waveform, "sampling_rate": rate}, top_k=None)
        except (ValueError, OSError) as error:
            yield path, error
        else:
            yield path, {row["label"]: row["score"] for row in rows}


def expand(sources: Iterable[Path]) -> list[Path]:
    """Files as they are, and of folders the audio files at any depth; a folder without any raises `ValueError`."""
    paths = []
    for source in sources:
        found = audio_files(source) if source.is_dir() else [source]
        if not found:
            raise ValueError(f"{source}: holds no audio files")
        paths += found
    return paths


def main(arguments: argparse.Namespace) -> int:
    """
    Prints, for each file, its name and the classes with their probabilities; as JSON, one object a line,
    `{"file": ..., "label": ..., "probabilities": {...}}`.

    Args:
        arguments (`argparse.Namespace`): `files` (`list[Path]`), `model` (`str`), `device` (`str`, optional) and `json`
            (`bool`).

    Returns:
        `int`: 2 where a file could not be classified, which one line on stderr names, else 0.
    """
    paths = expand(arguments.files)
    classifier = load_classifier(arguments.model, arguments.device)
    status = 0
    for path, result in classify(classifier, paths):
        if isinstance(result, Exception):
            text = " ".join(str(result).split())
            print(f"affectcodec: error: {text if str(path) in text else f'{path}: {text}'}", file=sys.stderr)
            status = 2
        elif arguments.json:
            print(json.dumps({"file": str(path), "label": next(iter(result)), "probabilities": result}), flush=True)
        else:
            print(f"{path}: {'  '.join(f'{label} {score:.3f}' for label, score in result.items())}", flush=True)
    return status
