"""Configuration of the codec-token speech language model."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_affectcodec import AffectCodecConfig


@strict
class AffectCodecTTSConfig(PreTrainedConfig):
    r"""
    Configuration of an [`AffectCodecTTSForConditionalGeneration`]: text-to-speech by a language model over the codec's
    tokens. The defaults are the paper's (arXiv 2605.11098, section 3.4): an autoregressive and a non-autoregressive
    Transformer of 12 layers, 16 heads, width 1024 and feed-forward width 4096 each, dropout 0.05.

    Three things follow from the codec and are properties: `codebook_size`, `num_quantizers`, `frame_rate`.

    The autoregressive part has one vocabulary: codes of codebook 1 (`0..codebook_size - 1`), the end of speech
    (`codebook_size`), the beginning of speech (`codebook_size + 1`), then the text (`text_token_offset` and up).

    Args:
        codec_config (`AffectCodecConfig` or `dict`, *optional*): The codec whose tokens are spoken; `None`: its defaults.
        codec_model_id (`str`, *optional*):
            Where the codec's weights are, for a checkpoint that does not hold them: a Hub id or a path; one that begins with
            a dot is seen from the checkpoint's folder. A loaded model holds all of its weights, and has `None` again.
        text_vocab_size (`int`, *optional*, defaults to 512): Number of text symbols (phonemes), with padding.
        hidden_size (`int`, *optional*, defaults to 1024): Width of both Transformers; even.
        num_hidden_layers (`int`, *optional*, defaults to 12): Layers of each Transformer.
        num_attention_heads (`int`, *optional*, defaults to 16): Attention heads.
        intermediate_size (`int`, *optional*, defaults to 4096): Width of the feed-forward layers.
        dropout (`float`, *optional*, defaults to 0.05):
            Dropout of embeddings, attention weights, feed-forward layers and residual branches.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the layer norms.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the linear layers' initial weights.
        min_prompt_frames (`int`, *optional*, defaults to 25): Shortest acoustic prompt in frames (half a second).
        max_prompt_frames (`int`, *optional*, defaults to 150): Longest acoustic prompt in frames (three seconds).
        text_position_stride (`float`, *optional*, defaults to 1.0):
            What the positions of the text count in; codes count in frames. The paper's is 1. Near the mean number of frames
            that a text symbol lasts (2.7 in our English), a symbol and its frames have like positions to begin with.
        use_cache (`bool`, *optional*, defaults to `True`): Whether the autoregressive part returns its key-value cache.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            Must be `False`: the autoregressive head has its own weights, and the non-autoregressive heads *are* the
            embedding tables.
        eos_token_id (`int`, *optional*): End of speech; `None`, or `codebook_size`.
        bos_token_id (`int`, *optional*): Beginning of speech; `None`, or `codebook_size + 1`.
        pad_token_id (`int`, *optional*): `None`, or `codebook_size`: padding repeats the end of speech.

    Example:

    ```python
    >>> from hf_affectcodec import AffectCodecTTSConfig

    >>> config = AffectCodecTTSConfig(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024)
    >>> config.eos_token_id, config.text_token_offset
    (1024, 1026)
    ```"""

    model_type = "affectcodec_tts"
    sub_configs_defaults = {"codec_config": AffectCodecConfig}
    keys_to_ignore_at_inference = ["past_key_values"]

    codec_config: dict | PreTrainedConfig | None = None
    codec_model_id: str | None = None
    text_vocab_size: int = 512
    hidden_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    dropout: float = 0.05
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    min_prompt_frames: int = 25
    max_prompt_frames: int = 150
    text_position_stride: float = 1.0
    use_cache: bool = True
    tie_word_embeddings: bool = False
    eos_token_id: int | None = None
    bos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name, value in self._special_tokens().items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def _special_tokens(self):
        size = self.codebook_size
        return {"eos_token_id": size, "bos_token_id": size + 1, "pad_token_id": size}

    def validate_architecture(self):
        for name in ("text_vocab_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % 2 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be even and divisible by `num_attention_heads` "
                f"({self.num_attention_heads})"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout}")
        if not 1 <= self.min_prompt_frames <= self.max_prompt_frames:
            raise ValueError(
                f"`min_prompt_frames` ({self.min_prompt_frames}) must lie in 1..`max_prompt_frames` "
                f"({self.max_prompt_frames})"
            )
        if not self.text_position_stride > 0:
            raise ValueError(f"`text_position_stride` must be positive, got {self.text_position_stride}")
        if self.num_quantizers < 2:
            raise ValueError(f"`codec_config` must have at least 2 quantizers, got {self.num_quantizers}")
        if self.tie_word_embeddings:
            raise ValueError("`tie_word_embeddings` must be False: the text and the codes share no table")
        for name, value in self._special_tokens().items():
            if getattr(self, name) != value:
                raise ValueError(f"`{name}` must be {value} for a codebook of {self.codebook_size}")

    @property
    def codebook_size(self) -> int:
        """Entries of each of the codec's codebooks."""
        return self.codec_config.codebook_size

    @property
    def num_quantizers(self) -> int:
        """Codebooks of the codec."""
        return self.codec_config.num_quantizers

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.codec_config.frame_rate

    @property
    def text_token_offset(self) -> int:
        """What is added to a text symbol's id to get its id in the autoregressive part's vocabulary."""
        return self.codebook_size + 2

    @property
    def vocab_size(self) -> int:
        """Size of the autoregressive part's vocabulary."""
        return self.text_token_offset + self.text_vocab_size


__all__ = ["AffectCodecTTSConfig"]
