"""
Text vectors, the third teacher of arXiv 2605.11098: a transcript, recognised or given, through a BERT.

One vector a word piece, not a frame: the emotion-weighted alignment (Algorithm 1) looks n vectors up for T' frames.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import AutoModel, AutoModelForCTC, AutoTokenizer, Wav2Vec2Processor

from .alignment import SAMPLING_RATE
from .frozen import check_waveforms, commit_of, freeze, load_frozen, weights_sha256


_SHORTEST = 400  # samples, the receptive field of wav2vec 2.0's convolutions


class TokenFeatures(NamedTuple):
    """
    Attributes:
        vectors (`torch.Tensor` `[B, N, C]`): Float32, one vector a word piece, zeros past an item's end.
        lengths (`torch.Tensor` `[B]`): int64, word pieces of each item; 0 for an empty transcript.
    """

    vectors: torch.Tensor
    lengths: torch.Tensor


class CTCRecognizer:
    """
    Transcripts by greedy CTC: the most likely symbol of each frame, repetitions and blanks removed. In lower case, as
    these models write capitals only, which a cased text model would read as shouting.

    Items are run one by one and unpadded, for the reason given in `hubert.py`.

    Args:
        model (`Wav2Vec2ForCTC`): Or any other CTC model on waveforms. Frozen in place.
        processor (`Wav2Vec2Processor`): Its feature extractor and tokenizer.
    """

    def __init__(self, model: torch.nn.Module, processor, source: str | None = None, revision: str | None = None):
        self.model = freeze(model)
        self.processor = processor
        self.description = {
            "source": source or model.config.name_or_path,
            "revision": revision,
            "weights_sha256": weights_sha256(model),
        }

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike" = "facebook/wav2vec2-base-960h",
        revision: str = "main",
        device: "str | torch.device" = "cpu",
    ) -> "CTCRecognizer":
        """Loads a CTC model by Hub id or folder."""
        model = load_frozen(AutoModelForCTC, source, revision, device)
        processor = Wav2Vec2Processor.from_pretrained(source, revision=revision)
        return cls(model, processor, str(source), commit_of(source, revision))

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[torch.Tensor]) -> list[str]:
        """Waveforms `[T]` at 16 kHz to transcripts."""
        check_waveforms(waveforms)
        return [self._transcript(waveform) for waveform in waveforms]

    def _transcript(self, waveform: torch.Tensor) -> str:
        waveform = torch.nn.functional.pad(waveform.float().cpu(), (0, max(0, _SHORTEST - len(waveform))))
        inputs = self.processor(waveform.numpy(), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        logits = self.model(**inputs.to(self.model.device)).logits
        return self.processor.batch_decode(logits.argmax(-1))[0].strip().lower()


class TextTeacher:
    """
    Mean of all hidden states of a BERT (13 for the base model) at each word piece of a transcript.

    The public code of the same mean is DM-Codec's `extract_rep.py`; its padding to one token a frame is not followed,
    nor are `[CLS]` and `[SEP]` returned, which have no place in time: an empty transcript has 0 tokens. Each transcript
    is run alone. One longer than the model's positions is run in consecutive pieces.

    Args:
        model (`BertModel`): Or any text encoder with `hidden_states`. Frozen in place.
        tokenizer (`PreTrainedTokenizerFast`): Its tokenizer.
        recognizer ([`CTCRecognizer`], *optional*): Or any callable from waveforms to transcripts with a `description`; not
            needed for given transcripts.
        source (`str`, *optional*): Where the text model came from, for `description`.
        revision (`str`, *optional*): Commit it came from, for `description`.

    Raises:
        ValueError: `tokenizer` is a slow one, which cannot say which tokens are special.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        recognizer: CTCRecognizer | None = None,
        source: str | None = None,
        revision: str | None = None,
    ):
        if not tokenizer.is_fast:
            raise ValueError(f"`tokenizer` must be a fast one, got {type(tokenizer).__name__}")
        self.model = freeze(model)
        self.tokenizer = tokenizer
        self.recognizer = recognizer
        self.max_length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        self.feature_size = model.config.hidden_size
        self.description = {
            "teacher": type(self).__name__,
            "source": source or model.config.name_or_path,
            "revision": revision,
            "weights_sha256": weights_sha256(model),
            "feature_size": self.feature_size,
            "recognizer": None if recognizer is None else recognizer.description,
        }

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike" = "google-bert/bert-base-uncased",
        recognizer: "str | os.PathLike | None" = "facebook/wav2vec2-base-960h",
        revision: str = "main",
        recognizer_revision: str = "main",
        device: "str | torch.device" = "cpu",
    ) -> "TextTeacher":
        """Loads text model and recogniser by Hub id or folder; `recognizer=None` where transcripts will be given."""
        model = load_frozen(AutoModel, source, revision, device)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        if recognizer is not None:
            recognizer = CTCRecognizer.from_pretrained(recognizer, recognizer_revision, device)
        return cls(model, tokenizer, recognizer, str(source), commit_of(source, revision))

    def __call__(
        self, waveforms: Sequence[torch.Tensor] | None = None, transcripts: Sequence[str] | None = None
    ) -> TokenFeatures:
        """
        Args:
            waveforms (sequence of `torch.Tensor`, *optional*): Items `[T]` at 16 kHz, for the recogniser.
            transcripts (sequence of `str`, *optional*): Given transcripts; then `waveforms` is not used.

        Returns:
            [`TokenFeatures`]

        Raises:
            ValueError: There are no transcripts and nothing to recognise them from.
        """
        if transcripts is None:
            transcripts = self.transcribe(waveforms)
        items = [self.embed(transcript) for transcript in transcripts]
        lengths = torch.tensor([len(item) for item in items], dtype=torch.long, device=self.model.device)
        vectors = torch.zeros(len(items), max(map(len, items), default=0), self.feature_size, device=self.model.device)
        for row, item in zip(vectors, items, strict=True):
            row[: len(item)] = item
        return TokenFeatures(vectors, lengths)

    def transcribe(self, waveforms: Sequence[torch.Tensor] | None) -> list[str]:
        """Transcripts of waveforms `[T]` at 16 kHz by the recogniser."""
        if self.recognizer is None:
            raise ValueError("`transcripts` must be given: this teacher has no recognizer")
        if waveforms is None:
            raise ValueError("`waveforms` or `transcripts` must be given")
        return self.recognizer(waveforms)

    @torch.no_grad()
    def embed(self, transcript: str) -> torch.Tensor:
        """A transcript to `[n, C]`, one vector a word piece; `[0, C]` where it has none."""
        pieces = self.tokenizer(
            transcript,
            truncation=True,
            max_length=self.max_length,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
        )
        vectors = [torch.zeros(0, self.feature_size, device=self.model.device)]
        for ids, special in zip(pieces["input_ids"], pieces["special_tokens_mask"], strict=True):
            if not all(special):
                ids = torch.tensor([ids], device=self.model.device)
                outputs = self.model(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
                mean = torch.stack(outputs.hidden_states).mean(0)[0]
                vectors.append(mean[torch.tensor(special, device=self.model.device) == 0])
        return torch.cat(vectors)
