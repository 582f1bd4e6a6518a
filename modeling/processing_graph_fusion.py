"""Processor of graph fusion: waveforms and given transcripts."""

import torch
from transformers import BatchFeature, ProcessorMixin

from .encoders_graph_fusion import tokenize_transcript


class GraphFusionProcessor(ProcessorMixin):
    r"""
    Turns waveforms and transcripts into the inputs of [`GraphFusionForAudioClassification`]. A model without text, or whose
    transcripts a recogniser makes, needs the feature extractor alone.

    Args:
        feature_extractor ([`GraphFusionFeatureExtractor`]): Of waveforms.
        tokenizer (`PreTrainedTokenizerBase`): Of the model's text encoder.
    """

    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_values", "padding_mask", "text_input_ids", "text_attention_mask"]

    def __call__(
        self,
        audio=None,
        text: str | list[str] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        r"""
        Args:
            audio (waveform of shape `(samples,)` or `(1, samples)`, or a list of them, *optional*):
                Floating point in [-1, 1]. Without it, the text decides alone.
            text (`str` or `list[str]`, *optional*):
                Transcript, or one for each waveform. An empty one: no words were said, and the item has no text. Without it,
                the model's recogniser transcribes, if it has one.
            sampling_rate (`int`, *optional*): Rate of `audio` in Hz; must be given with it, and equal the extractor's.
            return_tensors (`str`, *optional*, defaults to `"pt"`): Tensors, the only choice.

        Returns:
            [`BatchFeature`] with what [`GraphFusionFeatureExtractor`] returns, and with text `text_input_ids` and
            `text_attention_mask` `(batch, tokens)`.

        Raises:
            ValueError: naming the argument that is missing or malformed.
        """
        if audio is None and text is None:
            raise ValueError("`audio` or `text` must be given")
        if return_tensors != "pt":
            raise ValueError(f"`return_tensors` must be 'pt', got {return_tensors!r}")
        batch = BatchFeature()
        if audio is not None:
            batch = self.feature_extractor(audio, sampling_rate=sampling_rate, return_tensors="pt")
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not texts or not all(isinstance(item, str) for item in texts):
                raise ValueError("`text` must be a string or a list of strings, at least one")
            if audio is not None and len(texts) != len(batch["input_values"]):
                raise ValueError(f"`text` has {len(texts)} transcripts for {len(batch['input_values'])} waveforms")
            ids = [tokenize_transcript(self.tokenizer, item) for item in texts]
            lengths = torch.tensor([len(item) for item in ids])
            # ids at padding do not matter: only what the mask marks goes into the encoder
            batch["text_input_ids"] = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            batch["text_attention_mask"] = torch.arange(batch["text_input_ids"].shape[1]) < lengths[:, None]
        return batch


__all__ = ["GraphFusionProcessor"]
