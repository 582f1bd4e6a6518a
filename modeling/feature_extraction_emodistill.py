"""Feature extractors of EmoDistill, where the encoder's own does not serve."""

from transformers import BatchFeature, WhisperFeatureExtractor

from .feature_extraction_token_fusion import TokenFusionFeatureExtractor


class EmoDistillFeatureExtractor(WhisperFeatureExtractor):
    r"""
    Whisper's, for a student on Whisper's encoder. It always returns the mask: the student averages the frames of the clip,
    and without it would average some seconds of speech with silence up to 30 s. `pipeline` does not ask for masks.

    Students on HuBERT, WavLM or wav2vec 2.0 use `Wav2Vec2FeatureExtractor(return_attention_mask=True)`, one on the codec
    [`AffectCodecFeatureExtractor`].
    """

    def __call__(self, raw_speech, return_attention_mask: bool | None = True, **kwargs) -> BatchFeature:
        """
        Arguments as of `WhisperFeatureExtractor`.

        Returns:
            [`BatchFeature`] with `input_features` `(batch, mel bins, columns)` and `attention_mask` `(batch, columns)`.
        """
        if not return_attention_mask:
            raise ValueError("`return_attention_mask` must be True: the student needs it")
        return super().__call__(raw_speech, return_attention_mask=True, **kwargs)


class EmoDistillProsodicTeacherFeatureExtractor(TokenFusionFeatureExtractor):
    r"""
    Waveforms to the 25 low-level descriptors of eGeMAPSv02, by openSMILE (for research and private use only): a row every
    10 ms, in openSMILE's order and units. Clips longer than `max_seconds` (30) are cut to their beginning.
    """

    def __init__(self, opensmile_feature_set: str = "eGeMAPSv02", opensmile_level: str = "lld", **kwargs):
        super().__init__(opensmile_feature_set=opensmile_feature_set, opensmile_level=opensmile_level, **kwargs)

    def __call__(self, audio, sampling_rate: int | None = None, return_tensors: str | None = None) -> BatchFeature:
        """
        Args:
            audio (`np.ndarray`, `torch.Tensor`, `list[float]`, or a list of these): One or several mono waveforms in [-1, 1].
            sampling_rate (`int`): Rate of `audio` in Hz; must be given, and equal the extractor's.
            return_tensors (`str`, *optional*): `"pt"`, `"np"` or `None`.

        Returns:
            [`BatchFeature`] with `input_features` `(batch, frames, 25)`, zero-padded, and `attention_mask` `(batch, frames)`.

        Raises:
            ImportError: The package `opensmile` is missing.
            ValueError: naming the argument that is malformed.
        """
        batch = super().__call__(audio, sampling_rate)
        renamed = {
            "input_features": batch["opensmile_features"],
            "attention_mask": batch["opensmile_attention_mask"],
        }
        return BatchFeature(renamed, tensor_type=return_tensors)


__all__ = ["EmoDistillFeatureExtractor", "EmoDistillProsodicTeacherFeatureExtractor"]
