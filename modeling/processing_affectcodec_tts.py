"""Processor of the speech language model: text to phoneme ids, an acoustic prompt to a padded waveform."""

import json

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from transformers.tokenization_utils_tokenizers import TokenizerFast

from .phonemes_affectcodec_tts import SYMBOLS, check_phonemes, phonemize


# 60 dB below full scale: what is nowhere louder holds no voice to imitate.
SILENCE = 1e-3
PAD, UNKNOWN = "<pad>", "<unk>"


def phoneme_vocabulary(emotions: list[str]) -> PreTrainedTokenizerFast:
    """The fixed vocabulary: 0 is padding, 1 is what it does not know, then come [`SYMBOLS`], then the emotions."""
    symbols = (PAD, UNKNOWN, *SYMBOLS, *map(_emotion_symbol, emotions))
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    description = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": UNKNOWN},
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=TokenizerFast.from_str(json.dumps(description)),
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


class AffectCodecTTSProcessor(ProcessorMixin):
    r"""
    Turns text and an acoustic prompt into the inputs of [`AffectCodecTTSForConditionalGeneration.generate`].

    Text becomes phonemes of the International Phonetic Alphabet by espeak-ng (extra `[tts]`); phonemes of another front end
    are taken as they are. The vocabulary is fixed and saved with the processor.

    Args:
        feature_extractor ([`AffectCodecFeatureExtractor`]): Of the codec.
        tokenizer (`PreTrainedTokenizerFast`, *optional*): Symbols to ids; `None`: the fixed vocabulary.
        language (`str`, *optional*, defaults to `"en-us"`): Language of texts that come without one.
        min_prompt_seconds (`float`, *optional*, defaults to 0.5): Shortest acoustic prompt.
        max_prompt_seconds (`float`, *optional*, defaults to 3.0): Longest acoustic prompt.
        emotions (`list[str]`, *optional*):
            Labels of emotions that can be asked for, each a symbol before the text; `None`: the prompt alone says the mood,
            as in the paper.
        max_phonemes (`int`, *optional*, defaults to 600): Longest text of an item in symbols, with the prompt's words. About
            thirteen a second are spoken; `split_text` cuts a longer text.
    """

    def __init__(
        self,
        feature_extractor,
        tokenizer=None,
        language: str = "en-us",
        min_prompt_seconds: float = 0.5,
        max_prompt_seconds: float = 3.0,
        emotions: list[str] | None = None,
        max_phonemes: int = 600,
    ):
        super().__init__(feature_extractor, phoneme_vocabulary(emotions or []) if tokenizer is None else tokenizer)
        self.language = language
        self.emotions = emotions
        self.min_prompt_seconds = min_prompt_seconds
        self.max_prompt_seconds = max_prompt_seconds
        self.max_phonemes = max_phonemes

    @property
    def sampling_rate(self) -> int:
        """Of prompts and of what is spoken, in Hz."""
        return self.feature_extractor.sampling_rate

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids",
            "attention_mask",
            "emotion_mask",
            "prompt_text_mask",
            "prompt_values",
            "prompt_padding_mask",
        ]

    def __call__(
        self,
        text: str | list[str] | None = None,
        prompt=None,
        prompt_text: str | list[str] | None = None,
        sampling_rate: int | None = None,
        language: str | list[str] | None = None,
        phonemes: str | list[str] | None = None,
        prompt_phonemes: str | list[str] | None = None,
        emotion: str | list[str] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        r"""
        Args:
            text (`str` or `list[str]`): What is to be spoken, one text or a batch.
            prompt (waveform of shape `(samples,)` or `(1, samples)`, or a list of them, *optional*):
                The voice and the mood to speak in, floating point in [-1, 1]; one for all texts, or one for each.
            prompt_text (`str` or `list[str]`, *optional*):
                The words of the prompt. Needed with a prompt, as the speech goes on where the prompt ends.
            sampling_rate (`int`, *optional*): Rate of the prompt in Hz; must be given with it, and equal the processor's.
            language (`str` or `list[str]`, *optional*): Code of the language, `"en-us"`, `"fr"`, ...; one, or one for each.
            phonemes, prompt_phonemes (`str` or `list[str]`, *optional*):
                In place of `text` and `prompt_text`: what another front end made of them.
            emotion (`str` or `list[str]`, *optional*): One of the processor's `emotions`, or one for each text.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"` or `None` (lists).

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask` `(batch, text_length)`, padded on the left; with an emotion
            `emotion_mask` of the same shape, 1 at its symbol; with a prompt `prompt_text_mask` of the same shape, 1 at
            the symbols of its words, `prompt_values` `(batch, 1, samples)` and `prompt_padding_mask` `(batch, samples)`.

        Raises:
            ImportError: Text is given and the extra `[tts]` is missing.
            ValueError: naming the argument that is malformed: no text, nothing to speak in it or too much; a prompt that is
                too short, too long, silent, or without its words.
        """
        if (text is None) == (phonemes is None):
            raise ValueError("exactly one of `text` and `phonemes` must be given")
        name = "text" if phonemes is None else "phonemes"
        batch = _strings(text if phonemes is None else phonemes, name)
        languages = _each(self.language if language is None else language, len(batch), "language")
        spoken = self._spoken(batch, languages, name, phonemes is not None)
        if prompt_text is not None and prompt_phonemes is not None:
            raise ValueError("only one of `prompt_text` and `prompt_phonemes` may be given")
        words = prompt_text if prompt_phonemes is None else prompt_phonemes
        if (prompt is None) != (words is None):
            raise ValueError("`prompt` and `prompt_text` (or `prompt_phonemes`) must be given together")
        if words is not None:
            name = "prompt_text" if prompt_phonemes is None else "prompt_phonemes"
            words = _each(words, len(batch), name)
            before = self._spoken(words, languages, name, prompt_phonemes is not None)
            own, spoken = spoken, [f"{first} {second}" for first, second in zip(before, spoken, strict=True)]
        if emotion is not None:
            emotion = _each(emotion, len(batch), "emotion")
        inputs = self.encode_phonemes(spoken, emotion)
        if prompt is not None:
            inputs |= self._prompt(prompt, len(batch), sampling_rate)
            length = len(inputs["input_ids"][0])
            # On the left of what is to be spoken; an emotion belongs to that.
            after = [len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in own]
            first = int(emotion is not None)
            inputs["prompt_text_mask"] = [
                [int(length - sum(row) + first <= place < length - kept) for place in range(length)]
                for row, kept in zip(inputs["attention_mask"], after, strict=True)
            ]
        return BatchFeature(inputs, tensor_type=return_tensors)

    def encode_phonemes(self, phonemes: list[str], emotions: list[str] | None = None) -> dict[str, list]:
        """Checked phonemes, and an emotion for each, to lists of ids and masks, padded on the left."""
        for index, item in enumerate(phonemes):
            if len(item) > self.max_phonemes:
                raise ValueError(
                    f"`text[{index}]` has {len(item)} phonemes, more than {self.max_phonemes}; `split_text` cuts long texts"
                )
        ids = self.tokenizer(phonemes, add_special_tokens=False)["input_ids"]
        if emotions is not None:
            ids = [[self.emotion_id(emotion), *item] for emotion, item in zip(emotions, ids, strict=True)]
        padded = self.tokenizer.pad({"input_ids": ids}, padding=True)
        inputs = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
        if emotions is not None:
            length = len(inputs["input_ids"][0])
            inputs["emotion_mask"] = [[int(t == length - len(item)) for t in range(length)] for item in ids]
        return inputs

    def emotion_id(self, emotion: str) -> int:
        """Id of an emotion's symbol."""
        if emotion not in (self.emotions or ()):
            raise ValueError(f"`emotion` must be one of {self.emotions or []}, got {emotion!r}")
        return self.tokenizer.convert_tokens_to_ids(_emotion_symbol(emotion))

    def decode(self, input_ids) -> str:
        """Ids of symbols `(text_length,)` back to phonemes, padding left out."""
        return self.tokenizer.decode(input_ids, skip_special_tokens=True)

    def batch_decode(self, input_ids) -> list[str]:
        """Ids of symbols `(batch, text_length)` back to phonemes, padding left out."""
        return [self.decode(item) for item in input_ids]

    def _spoken(self, texts, languages, name, are_phonemes):
        spoken = []
        for index, (text, language) in enumerate(zip(texts, languages, strict=True)):
            try:
                spoken.append(check_phonemes(text, name) if are_phonemes else phonemize(text, language))
            except ValueError as error:
                raise ValueError(str(error).replace("`text`", f"`{name}[{index}]`")) from None
        return spoken

    def _prompt(self, prompt, batch_size, sampling_rate):
        prompts = list(prompt) if isinstance(prompt, (list, tuple)) and not _is_waveform(prompt) else [prompt]
        if len(prompts) not in (1, batch_size):
            raise ValueError(f"`prompt` must be one waveform or {batch_size}, got {len(prompts)}")
        try:
            features = self.feature_extractor(prompts, sampling_rate=sampling_rate, return_tensors="np")
        except ValueError as error:
            raise ValueError(str(error).replace("`audio", "`prompt")) from None
        values, mask = features["input_values"], features["padding_mask"]
        for index, (item, kept) in enumerate(zip(values, mask, strict=True)):
            seconds = int(kept.sum()) / self.sampling_rate
            if not self.min_prompt_seconds <= seconds <= self.max_prompt_seconds:
                raise ValueError(
                    f"`prompt[{index}]` is {seconds:.2f} s long, it must be {self.min_prompt_seconds:g} to "
                    f"{self.max_prompt_seconds:g} s"
                )
            if np.abs(item).max() < SILENCE:
                raise ValueError(f"`prompt[{index}]` is silent: nowhere louder than {SILENCE:g} of full scale")
        repeats = batch_size // len(prompts)
        return {
            "prompt_values": np.repeat(values, repeats, axis=0),
            "prompt_padding_mask": np.repeat(mask, repeats, axis=0),
        }


def _emotion_symbol(emotion: str) -> str:
    return f"<{emotion}>"


def _is_waveform(prompt) -> bool:
    """Whether a list is a waveform of numbers, not a list of waveforms."""
    return len(prompt) > 0 and not isinstance(prompt[0], (np.ndarray, torch.Tensor, list, tuple))


def _strings(values, name) -> list[str]:
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"`{name}` must be a string or a list of strings, got {values!r}")
    for index, value in enumerate(values):
        if not value.strip():
            raise ValueError(f"`{name}[{index}]` is empty")
    return list(values)


def _each(values, count, name) -> list[str]:
    values = _strings(values, name)
    if len(values) not in (1, count):
        raise ValueError(f"`{name}` must be one string or {count}, got {len(values)}")
    return values * (count // len(values))


__all__ = ["AffectCodecTTSProcessor"]
