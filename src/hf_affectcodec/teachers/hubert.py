"""HuBERT, the semantic teacher of arXiv 2605.11098."""

import os

import torch
from transformers import AutoFeatureExtractor, HubertModel

from .frames import FrameTeacher
from .frozen import commit_of, load_frozen


class HubertTeacher(FrameTeacher):
    """
    Mean of all hidden states of a HuBERT, 13 for the base model: the input of the first layer and every layer's output.

    The public code of the same mean is SpeechTokenizer's `scripts/hubert_rep_extract.py`. Its 50 Hz frames need no
    interpolation; 3 s give 149 of them beside 150 codec frames, and the last is repeated.

    The base models normalise their first convolution over time ("group"), padding included, and the mask does not
    reach it: items are therefore run one by one. Attention is over the whole clip, so memory grows with its square:
    a minute (3,000 frames) is no matter, cut what is much longer.

    Args:
        model (`HubertModel`): Or any model of the wav2vec 2.0 family (WavLM, wav2vec 2.0).
        processor (`Wav2Vec2FeatureExtractor`): Its feature extractor.
        layer (`int` or `str`, *optional*, defaults to `"mean"`): See [`~hf_affectcodec.teachers.frames.FrameTeacher`].
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor,
        layer: int | str = "mean",
        source: str | None = None,
        revision: str | None = None,
    ):
        super().__init__(model, processor, layer=layer, source=source, revision=revision)

    @classmethod
    def from_pretrained(
        cls,
        source: "str | os.PathLike" = "facebook/hubert-base-ls960",
        layer: int | str = "mean",
        revision: str = "main",
        device: "str | torch.device" = "cpu",
    ) -> "HubertTeacher":
        """Loads a HuBERT by Hub id or folder."""
        model = load_frozen(HubertModel, source, revision, device)
        processor = AutoFeatureExtractor.from_pretrained(source, revision=revision)
        return cls(model, processor, layer, str(source), commit_of(source, revision))
