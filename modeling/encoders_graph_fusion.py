"""From waveforms and transcripts to the sequences that graph fusion joins, by frozen encoders of the Hub."""

import torch
from transformers import AutoModel, AutoTokenizer, pipeline

from .foreign_graph_fusion import CED_PREFIX, XEUS, load_ced, load_xeus
from .source_token_fusion import resolve_source
from .waveform_token_fusion import load_guest, num_frames, prepare_waveform


FRAME_RATE = 50.0  # Hz, of Whisper, WavLM, HuBERT and wav2vec 2.0


class GraphFusionEncoders:
    """
    Frozen encoders with their feature extractors, text encoder and recogniser. Clips are run one by one and unpadded (but for
    what a feature extractor itself pads, as Whisper's does to 30 s), and long ones in windows. It is no module: these weights
    are other models', and are neither trained nor saved with the classifier.

    Args:
        config ([`GraphFusionConfig`]): Sampling rate and window.
        speech (`dict[str, tuple]`): By modality the model and its feature extractor. Features are its `last_hidden_state`; of
            an encoder-decoder model (Whisper) the encoder's.
        text (`tuple`, *optional*): Text encoder and its tokenizer.
        recognizer (callable, *optional*): As `pipeline("automatic-speech-recognition")`: takes
            `{"array": ..., "sampling_rate": ...}`, returns `{"text": ...}`.
    """

    def __init__(self, config, speech: dict, text: tuple | None = None, recognizer=None):
        self.config = config
        self.speech = {
            modality: (_frozen(model.get_encoder() if model.config.is_encoder_decoder else model), extractor)
            for modality, (model, extractor) in speech.items()
        }
        self.text = None if text is None else (_frozen(text[0]), text[1])
        self.recognizer = recognizer

    @classmethod
    def from_config(
        cls, config, device: "torch.device | str" = "cpu", trust_remote_code: bool = False
    ) -> "GraphFusionEncoders":
        """
        Loads the encoders that the configuration names, in float32. CED is code of the Hub, which `trust_remote_code` lets run;
        XEUS needs ESPnet.
        """
        revisions, speech = config.encoder_revisions, {}
        for modality, source in config.speech_encoders.items():
            revision = revisions.get(source, "main")
            if source == XEUS:
                speech[modality] = load_xeus(revision)
            elif source.startswith(CED_PREFIX):
                speech[modality] = load_ced(source, revision, trust_remote_code)
            else:
                speech[modality] = load_guest(source, revision, config, f"speech_encoders[{modality!r}]")
        text = recognizer = None
        if config.text_encoder is not None:
            revision = revisions.get(config.text_encoder, "main")
            where = resolve_source(config.text_encoder, revision, config, "text_encoder")
            text = AutoModel.from_pretrained(**where, dtype=torch.float32), AutoTokenizer.from_pretrained(**where)
        if config.recognizer is not None:
            where = resolve_source(config.recognizer, revisions.get(config.recognizer, "main"), config, "recognizer")
            recognizer = pipeline(
                "automatic-speech-recognition",
                model=where["pretrained_model_name_or_path"],
                trust_remote_code=where["trust_remote_code"],
                revision=where["revision"],
                dtype=torch.float32,
                device=device,
            )
        return cls(config, speech, text, recognizer).to(device)

    def to(self, device) -> "GraphFusionEncoders":
        """Moves the encoders; the recogniser stays where it was loaded."""
        for model, _ in (*self.speech.values(), *([] if self.text is None else [self.text])):
            model.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self, waveform: torch.Tensor | None, token_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            waveform (`torch.Tensor` `[T]`, *optional*): At `config.sampling_rate`, in [-1, 1].
            token_ids (`torch.LongTensor` `[n]`, *optional*):
                The transcript; `None`: the recogniser's, if there is one. Empty: there are no words.

        Returns:
            `dict[str, torch.Tensor]`: By modality `[F, C]` float32, `F` at most `ceil(T / 320)` at 16 kHz, or `[n, C]` for
            `"text"`. Modalities that cannot be had are left out.

        Raises:
            ValueError: A transcript is given, and there is no text encoder.
        """
        features = {}
        if waveform is not None:
            features = {name: self._speech_features(waveform, *guest) for name, guest in self.speech.items()}
            if token_ids is None and self.recognizer is not None:
                token_ids = self.tokenize(self.transcribe(waveform))
        if token_ids is not None:
            if self.text is None:
                raise ValueError("`text_input_ids`: the configuration names no `text_encoder`")
            if len(token_ids):
                features["text"] = self._text_features(token_ids)
        return features

    def windows(self, num_samples: int) -> list[tuple[int, int]]:
        """
        (begin, keep) in samples: run from `begin` on, keep what lies at `keep` or later. The last window begins early enough
        to be as full as the others, at a whole frame, so that no model sees a short remainder alone.
        """
        window = round(self.config.encoder_window_seconds * self.config.sampling_rate)
        hop = round(self.config.sampling_rate / FRAME_RATE)
        latest = -(-max(0, num_samples - window) // hop) * hop
        return [(min(start, latest), start) for start in range(0, num_samples, window)]

    def transcribe(self, waveform: torch.Tensor) -> str:
        """What the recogniser hears, window after window; in lower case where it writes capitals only (CTC models do)."""
        rate = self.config.sampling_rate
        window = round(self.config.encoder_window_seconds * rate)
        parts = [
            self.recognizer({"array": part.float().cpu().numpy(), "sampling_rate": rate})["text"].strip()
            for part in waveform.split(window)
        ]
        text = " ".join(part for part in parts if part)
        return text.lower() if text.isupper() else text

    def tokenize(self, transcript: str) -> torch.Tensor:
        """A transcript to ids `[n]`, none where it has no words."""
        return tokenize_transcript(self.text[1], transcript)

    def _speech_features(self, waveform, model, extractor) -> torch.Tensor:
        rate, parts = self.config.sampling_rate, []
        window = round(self.config.encoder_window_seconds * rate)
        for begin, keep in self.windows(len(waveform)):
            part = waveform[begin : begin + window]
            inputs = prepare_waveform(model, extractor, part, rate)
            hidden = model(**inputs).last_hidden_state[0, : num_frames(len(part), rate, FRAME_RATE)]
            parts.append(hidden[round((keep - begin) * FRAME_RATE / rate) :])
        return torch.cat(parts)

    def _text_features(self, token_ids) -> torch.Tensor:
        model = self.text[0]
        token_ids = token_ids[None].to(model.device)
        return model(input_ids=token_ids, attention_mask=torch.ones_like(token_ids)).last_hidden_state[0]


def tokenize_transcript(tokenizer, transcript: str) -> torch.Tensor:
    """A transcript to ids `[n]` with the text encoder's special tokens, at most 512; none where it has no words."""
    if not transcript.strip():
        return torch.zeros(0, dtype=torch.long)
    longest = min(512, tokenizer.model_max_length)
    return torch.tensor(tokenizer(transcript, truncation=True, max_length=longest)["input_ids"])


def pad_modalities(items: list[dict[str, torch.Tensor]], config):
    """
    Batches items that each hold what they have of the modalities, `[T, D]` or tokens `[T]`.

    Returns:
        `tuple`: `input_features` and `attention_mask` of [`GraphFusionForAudioClassification`], by modality, padded on the
        right. A modality that an item lacks is all padding in its row; one that all lack is left out.
    """
    features, masks = {}, {}
    for modality in config.modalities:
        given = {row: item[modality] for row, item in enumerate(items) if modality in item}
        if not given:
            continue
        steps = max(map(len, given.values()))
        if modality in config.token_sizes:
            values = torch.full((len(items), steps), config.token_sizes[modality] - 1)
        else:
            values = torch.zeros(len(items), steps, config.feature_sizes[modality])
        mask = torch.zeros(len(items), steps, dtype=torch.bool)
        for row, tensor in given.items():
            values[row, : len(tensor)] = tensor
            mask[row, : len(tensor)] = True
        features[modality], masks[modality] = values, mask
    return features, masks


def _frozen(model):
    return model.eval().requires_grad_(False)
