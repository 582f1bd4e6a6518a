"""Transcripts for WER and WIL: Whisper, or any CTC model, by Hub id."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoConfig, AutoProcessor, WhisperConfig, WhisperForConditionalGeneration

from hf_affectcodec.teachers.frozen import commit_of, freeze, load_frozen, weights_sha256
from hf_affectcodec.teachers.text import CTCRecognizer

from .waveforms import check_audible, check_waveform


SAMPLING_RATE = 16000  # Hz
WINDOW_SECONDS = 30
SEARCH_SECONDS = 5  # at the end of a window, where a pause to cut at is looked for
_FRAME = 320  # samples over which loudness is measured


def split_at_pauses(
    waveform: np.ndarray,
    max_samples: int = WINDOW_SECONDS * SAMPLING_RATE,
    search_samples: int = SEARCH_SECONDS * SAMPLING_RATE,
) -> list[np.ndarray]:
    """
    Cuts a waveform into consecutive windows of at most `max_samples`, each cut in the middle of the quietest 20 ms of
    the last `search_samples` that it could have, so that words are rarely cut.

    Args:
        waveform (`np.ndarray` [T]): At 16 kHz.
        max_samples (`int`, *optional*, defaults to 480000): Longest window: 30 s.
        search_samples (`int`, *optional*, defaults to 80000): Samples searched, fewer than `max_samples`.

    Returns:
        `list[np.ndarray]`: Windows that give the waveform when joined.
    """
    pieces = []
    while waveform.size > max_samples:
        first = max_samples - search_samples
        searched = waveform[first:max_samples]
        frames = searched[: searched.size // _FRAME * _FRAME].reshape(-1, _FRAME)
        cut = first + int(np.argmin((frames**2).mean(axis=1))) * _FRAME + _FRAME // 2
        pieces.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*pieces, waveform]


def _check(waveforms: Sequence, sampling_rate: int, languages: Sequence[str]) -> list[np.ndarray]:
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"`sampling_rate` must be {SAMPLING_RATE}, got {sampling_rate}")
    if isinstance(languages, str) or len(languages) != len(waveforms):
        raise ValueError(f"`languages` must be a list with one code a clip, got {languages!r}")
    names = [f"waveforms[{index}]" for index in range(len(waveforms))]
    return [check_audible(check_waveform(item, name), name) for item, name in zip(waveforms, names, strict=True)]


class WhisperTranscriber:
    """
    Transcripts by a Whisper (Radford et al., 2022): greedy, no timestamps, no temperature fallback, each clip in the
    language it is said to be in. Clips of more than 30 s are cut at pauses, see [`split_at_pauses`], and their windows
    transcribed independently, as text carried from window to window would carry errors too.

    Every window is padded to 30 s whatever it is batched with, so that a batch can change a transcript through the
    rounding of its arithmetic only.

    Args:
        model (`WhisperForConditionalGeneration`): Frozen in place.
        processor (`WhisperProcessor`): Its feature extractor and tokenizer.
        batch_size (`int`, *optional*, defaults to 1): Windows run at once.
        source, revision (`str`, *optional*): Where the model came from, for `description`.
    """

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        processor,
        batch_size: int = 1,
        source: str | None = None,
        revision: str | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive, got {batch_size}")
        self.model = freeze(model)
        self.processor = processor
        self.batch_size = batch_size
        # A model of English only knows no languages and refuses to be told one.
        self.multilingual = hasattr(model.generation_config, "lang_to_id")
        self.description = {
            "transcriber": type(self).__name__,
            "source": source or model.config.name_or_path,
            "revision": revision,
            "weights_sha256": weights_sha256(model),
            "decoding": f"greedy, windows of {processor.feature_extractor.chunk_length} s cut at pauses",
        }

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike" = "openai/whisper-large-v3",
        revision: str = "main",
        device: "str | torch.device" = "cpu",
        batch_size: int = 1,
    ) -> "WhisperTranscriber":
        """
        Loads a Whisper in float32 by Hub id or folder. Which size arXiv 2605.11098 used is not stated; large-v3 is what
        most papers of the field report. WER of different sizes does not compare.
        """
        model = load_frozen(WhisperForConditionalGeneration, source, revision, device)
        processor = AutoProcessor.from_pretrained(source, revision=revision)
        return cls(model, processor, batch_size, str(source), commit_of(source, revision))

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence, sampling_rate: int, languages: Sequence[str]) -> list[str]:
        """
        Args:
            waveforms (sequence of array [T]): Clips, full scale ±1, any lengths.
            sampling_rate (`int`): In Hz, must be 16000.
            languages (sequence of `str`): Code of each clip's language: `"en"`, `"fr"`, ...

        Returns:
            `list[str]`: Transcripts, not normalised. One may be empty.

        Raises:
            ValueError: A clip is not usable or is silent (Whisper invents words for silence), the sampling rate is
                another, or the model does not know a language.
        """
        clips = _check(waveforms, sampling_rate, languages)
        for language in languages:
            if not self.multilingual and language != "en":
                raise ValueError(f"`languages`: this model is for English only, got {language!r}")
            if self.multilingual and f"<|{language}|>" not in self.model.generation_config.lang_to_id:
                raise ValueError(f"`languages`: this model knows no language {language!r}")
        max_samples = self.processor.feature_extractor.n_samples
        windows = [
            (index, piece)
            for index, clip in enumerate(clips)
            for piece in split_at_pauses(clip, max_samples, max_samples * SEARCH_SECONDS // WINDOW_SECONDS)
        ]
        texts = [[] for _ in clips]
        for start in range(0, len(windows), self.batch_size):
            indices, pieces = zip(*windows[start : start + self.batch_size], strict=True)
            for index, text in zip(indices, self._generate(pieces, [languages[i] for i in indices]), strict=True):
                texts[index].append(text.strip())
        return [" ".join(text for text in pieces if text) for pieces in texts]

    def _generate(self, pieces: Sequence[np.ndarray], languages: list[str]) -> list[str]:
        inputs = self.processor.feature_extractor(
            [piece.astype(np.float32) for piece in pieces],
            sampling_rate=SAMPLING_RATE,
            return_attention_mask=True,  # no effect on Whisper's encoder; `generate` warns without it
            return_tensors="pt",
        )
        told = {"language": languages, "task": "transcribe"} if self.multilingual else {}
        # What a checkpoint's own generation settings may say otherwise is set here.
        tokens = self.model.generate(
            **inputs.to(self.model.device), return_timestamps=False, do_sample=False, num_beams=1, **told
        )
        return self.processor.batch_decode(tokens, skip_special_tokens=True)


class CTCTranscriber:
    """
    Transcripts by a CTC model, see [`~hf_affectcodec.teachers.text.CTCRecognizer`]: greedy, clips one by one, those of
    more than 30 s cut at pauses. Such a model speaks one language, which the codes given are not checked against.

    Args:
        recognizer ([`~hf_affectcodec.teachers.text.CTCRecognizer`]): The model.
    """

    def __init__(self, recognizer: CTCRecognizer):
        self.recognizer = recognizer
        self.description = {"transcriber": type(self).__name__, **recognizer.description, "decoding": "greedy CTC"}

    @classmethod
    def from_pretrained(
        cls, source: "str | os.PathLike", revision: str = "main", device: "str | torch.device" = "cpu"
    ) -> "CTCTranscriber":
        """Loads a CTC model by Hub id or folder."""
        return cls(CTCRecognizer.from_pretrained(source, revision, device))

    def __call__(self, waveforms: Sequence, sampling_rate: int, languages: Sequence[str]) -> list[str]:
        """As [`WhisperTranscriber`]; in lower case."""
        clips = _check(waveforms, sampling_rate, languages)
        texts = [self.recognizer([torch.from_numpy(piece) for piece in split_at_pauses(clip)]) for clip in clips]
        return [" ".join(text for text in pieces if text) for pieces in texts]


def load_transcriber(
    source: "str | os.PathLike" = "openai/whisper-large-v3",
    revision: str = "main",
    device: "str | torch.device" = "cpu",
    batch_size: int = 1,
) -> WhisperTranscriber | CTCTranscriber:
    """
    The transcriber that a Hub id or folder holds: Whisper by its configuration, else whatever `AutoModelForCTC` loads.

    Args:
        source (`str` or path, *optional*): Hub id or folder.
        revision (`str`, *optional*, defaults to `"main"`): Of the Hub repository.
        device (`str`, *optional*, defaults to `"cpu"`): Where the model runs.
        batch_size (`int`, *optional*, defaults to 1): Windows that a Whisper runs at once; CTC models always run one.
    """
    if isinstance(AutoConfig.from_pretrained(source, revision=revision), WhisperConfig):
        return WhisperTranscriber.from_pretrained(source, revision, device, batch_size)
    return CTCTranscriber.from_pretrained(source, revision, device)
