"""EmoDistill's recipes, and what goes into teachers and student: words, descriptors, frames of the speech encoder."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from fit_kmeans import StreamCache
from recipe import DataSource, build_data_source
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm
from train_token_fusion import LabelledClips, split_by_speaker

from hf_affectcodec.data.clips import Clips, load_clips
from hf_affectcodec.metrics.speaker_split import assert_speaker_disjoint
from hf_affectcodec.metrics.transcription import load_transcriber
from hf_affectcodec.modeling.feature_extraction_emodistill import EmoDistillProsodicTeacherFeatureExtractor
from hf_affectcodec.settings import build_dataclass, read_yaml


@dataclass
class Training:
    """
    AdamW with a linear warm-up and a linear decay to 0. `encoder_learning_rate` is for what was trained before (the text
    encoder, the speech encoder). `keep_best`: the epoch with the best macro-F1 on the validation items, else the last.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-4
    encoder_learning_rate: float = 1e-5
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    max_grad_norm: float = 1.0
    keep_best: bool = True
    mixed_precision: str = "no"


@dataclass
class EmoDistillRecipe:
    """
    One study. `model`, `linguistic_teacher` and `prosodic_teacher` hold the keyword arguments of the three configuration
    classes but labels and widths, `student`, `linguistic_training` and `prosodic_training` those of [`Training`].

    The column that `data.column_map` calls `text` has the transcripts; without one they are made by `recognizer`, in the
    language that the column `language` or, for all clips, `language` here says. `folds` lists the speakers of each fold's
    `test` and `validation`, all others being trained on; `None`: one speaker (or `speakers_per_fold`) after the other is
    tested, and the next validate. With `train_text_encoder` or `train_encoder` false the text or the speech encoder stays as it
    is, and runs once; `lora` holds arguments of `peft.LoraConfig`. With `cross_fit` the logits that the student learns from
    are those of teachers trained without the clip's speaker: the training speakers are dealt into so many parts. Embeddings
    stay the one teacher's, since those of several networks are not of one space.
    """

    name: str
    data: DataSource
    labels: list[str]
    encoder: str
    text_encoder: str
    model: dict = field(default_factory=dict)
    linguistic_teacher: dict = field(default_factory=dict)
    prosodic_teacher: dict = field(default_factory=dict)
    student: Training = field(default_factory=Training)
    linguistic_training: Training = field(default_factory=Training)
    prosodic_training: Training = field(default_factory=Training)
    recognizer: str | None = None
    language: str | None = None
    cache: str | None = None
    train_text_encoder: bool = True
    train_encoder: bool = False
    lora: dict | None = None
    standardize: bool = True
    class_weighting: bool = True
    folds: list[dict] | None = None
    speakers_per_fold: int = 1
    cross_fit: int | None = None
    seed: int = 0

    def to_dict(self) -> dict:
        return asdict(self)


def load_recipe(path: Path, data_root: str = "data", overrides: Sequence[str] = ()) -> EmoDistillRecipe:
    """
    Reads a YAML recipe; `overrides` are `KEY=VALUE`.

    Raises:
        ValueError: naming the file and the key that is unknown, or the settings that exclude each other.
    """
    values = read_yaml(path, overrides)
    values["data"] = build_data_source(values["data"], data_root, f"{path}: data")
    for name in ("student", "linguistic_training", "prosodic_training"):
        values[name] = build_dataclass(Training, values.get(name, {}), f"{path}: {name}")
    recipe = build_dataclass(EmoDistillRecipe, values, str(path))
    if recipe.lora is not None and not recipe.train_encoder:
        raise ValueError(f"{path}: `lora` needs `train_encoder: true`")
    return recipe


@dataclass
class EmotionClips(LabelledClips):
    """
    Clips with their transcripts; `opensmile` holds the descriptors `[T', 25]`, `streams` two vectors `[2, C]` with the mean and
    the standard deviation of the speech encoder's frames of a clip, where the encoder is not trained, `text_embeddings` what the
    text encoder says, `[N, D]`, where that is not trained.
    """

    transcripts: list[str] = field(default_factory=list)
    text_embeddings: torch.Tensor | None = None

    @property
    def waveforms(self) -> list[np.ndarray]:
        """`[T]` float32 in [-1, 1], at 16 kHz."""
        return [waveform / np.float32(32768) for waveform in self.clips.waveforms]


def load_emotion_clips(recipe: EmoDistillRecipe) -> EmotionClips:
    """
    The clips of the wanted labels, without what is computed from them.

    Raises:
        ValueError: The source's `column_map` names no `label` or `speaker`, or no clip has one of the labels.
    """
    source, labels = recipe.data, recipe.labels
    if not source.column_map or not {"audio", "label", "speaker"} <= source.column_map.keys():
        raise ValueError(f"`data.column_map` must name `audio`, `label` and `speaker`, got {source.column_map}")
    clips = load_clips(source.source, source.split, source.column_map, config_name=source.config_name)
    kept = [row for row, label in enumerate(clips.columns["label"]) if label in labels]
    if not kept:
        raise ValueError(f"`labels`: no clip has one of {labels}")
    columns = {name: [values[row] for row in kept] for name, values in clips.columns.items()}
    return EmotionClips(
        Clips(
            [clips.waveforms[row] for row in kept], clips.sampling_rate, [clips.names[row] for row in kept], columns
        ),
        [labels.index(label) for label in columns["label"]],
        columns["speaker"],
    )


def load_transcripts(recipe: EmoDistillRecipe, clips: EmotionClips, path: Path) -> list[str]:
    """
    The column `text`, or what the recognizer hears, kept in a file and made only for clips that it lacks.

    Raises:
        ValueError: There is neither, no language is known, or the file is of another recognizer.
    """
    columns = clips.clips.columns
    if "text" in columns:
        return [text or "" for text in columns["text"]]
    if recipe.recognizer is None:
        raise ValueError("`recognizer`: the data has no column `text`, so the linguistic teacher needs one")
    languages = columns.get("language", [recipe.language] * len(clips))
    if None in languages:
        raise ValueError("`language`: the recognizer must be told it, or `data.column_map` name a column of it")
    stored = {"recognizer": recipe.recognizer, "transcripts": {}}
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["recognizer"] != recipe.recognizer:
            raise ValueError(f"`cache`: {path} is of the recognizer {stored['recognizer']!r}; name another folder")
    missing = [row for row, name in enumerate(clips.names) if name not in stored["transcripts"]]
    if missing:
        transcriber = load_transcriber(recipe.recognizer)
        for count, row in enumerate(tqdm(missing, desc="transcribing", unit="clip"), 1):
            waveform = clips.clips.waveforms[row] / np.float32(32768)
            text = transcriber([waveform], clips.clips.sampling_rate, [languages[row]])[0]
            stored["transcripts"][clips.names[row]] = text
            if count % 50 == 0 or count == len(missing):
                temporary = path.with_suffix(".tmp")
                temporary.write_text(json.dumps(stored, ensure_ascii=False, indent=1), encoding="utf-8")
                os.replace(temporary, path)
    return [stored["transcripts"][name] for name in clips.names]


def load_descriptors(clips: EmotionClips, path: Path) -> list[np.ndarray]:
    """
    eGeMAPS descriptors `[T', 25]` of every clip, kept in a file.

    Raises:
        ValueError: The file is of other clips.
    """
    if not path.exists():
        extractor = EmoDistillProsodicTeacherFeatureExtractor()
        waveforms = tqdm(clips.waveforms, desc="openSMILE", unit="clip")
        tensors = {}
        for row, waveform in enumerate(waveforms):
            tensors[str(row)] = torch.from_numpy(np.ascontiguousarray(extractor.opensmile_features(waveform)))
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"names": json.dumps(clips.names)})
        os.replace(temporary, path)
    with safe_open(path, "np") as file:
        if json.loads(file.metadata()["names"]) != clips.names:
            raise ValueError(f"`cache`: {path} is of other clips; name another folder")
        return [file.get_tensor(str(row)) for row in range(len(clips))]


def load_frames(encode: Callable, settings: dict, clips: EmotionClips, folder: Path) -> list[torch.Tensor]:
    """
    What the speech encoder makes of each clip, `[2, C]` float32; kept in a folder.

    Args:
        encode: Waveform `[T]` at 16 kHz -> `[2, C]`.
        settings: What the content depends on, see [`fit_kmeans.StreamCache`].
        clips: The clips.
        folder: Of the cache.
    """
    cache = StreamCache(folder, len(clips), settings)
    cache.fill(clips, encode)
    return [cache.read(row).float() for row in range(len(clips))]


def num_folds(recipe: EmoDistillRecipe, speakers: Sequence[str]) -> int:
    if recipe.folds is not None:
        return len(recipe.folds)
    return -(-len(set(speakers)) // recipe.speakers_per_fold)


def split_rows(recipe: EmoDistillRecipe, speakers: Sequence[str], fold: int) -> tuple[list[int], list[int], list[int]]:
    """
    Rows to train on, validate on and test on.

    Raises:
        ValueError: There is no such fold, it names a speaker that the data lacks, or a speaker is on two sides.
    """
    if recipe.folds is None:
        return split_by_speaker(speakers, fold, recipe.speakers_per_fold)
    if not 0 <= fold < len(recipe.folds):
        raise ValueError(f"`fold` must lie in 0..{len(recipe.folds) - 1}, got {fold}")
    test, validation = recipe.folds[fold]["test"], recipe.folds[fold]["validation"]
    unknown = sorted({*test, *validation} - set(speakers))
    if unknown:
        raise ValueError(f"`folds`: the data has no speaker {unknown[0]!r}")
    assert_speaker_disjoint(test, validation)
    parts = ([], [], [])
    for row, speaker in enumerate(speakers):
        parts[2 if speaker in test else 1 if speaker in validation else 0].append(row)
    return parts
