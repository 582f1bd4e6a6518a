"""The encoder of a Whisper: a semantic teacher that speaks 99 languages and comes in five sizes."""

import os

import torch
from transformers import AutoFeatureExtractor, WhisperModel

from .frames import FrameTeacher
from .frozen import commit_of, load_frozen


class WhisperTeacher(FrameTeacher):
    """
    Hidden states of a Whisper encoder at 50 Hz, cut to the true length.

    Whisper always sees 30 s: the log-mel is padded with silence, and of the 1,500 frames the first `ceil(T / 320)` are
    taken. A clip longer than 30 s is run in windows, see [`~hf_affectcodec.teachers.alignment.windows`]; each has its
    own log-mel floor (8 dB below the window's peak, in log10 units).

    Args:
        model (`WhisperModel`): Whisper, of which only the encoder is kept, or the encoder itself.
        processor (`WhisperFeatureExtractor`): Its feature extractor; its `chunk_length` (s) is the window.
        layer (`int` or `str`, *optional*, defaults to `"last"`): See [`~hf_affectcodec.teachers.frames.FrameTeacher`].
            `"last"` is after the final layer norm.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor,
        layer: int | str = "last",
        source: str | None = None,
        revision: str | None = None,
    ):
        encoder = model.encoder if isinstance(model, WhisperModel) else model
        super().__init__(
            encoder,
            processor,
            layer=layer,
            window_seconds=processor.chunk_length,
            source=source,
            revision=revision,
        )

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike" = "openai/whisper-base",
        layer: int | str = "last",
        revision: str = "main",
        device: "str | torch.device" = "cpu",
    ) -> "WhisperTeacher":
        """Loads the encoder of a Whisper by Hub id or folder."""
        model = load_frozen(WhisperModel, source, revision, device)
        processor = AutoFeatureExtractor.from_pretrained(source, revision=revision)
        return cls(model, processor, layer, str(source), commit_of(source, revision))
