"""Token fusion model configuration."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


LAYER_FUSIONS = ("frame", "utterance", "mean", "single")
OPENSMILE_FUSIONS = ("none", "early", "late", "gate")
OPENSMILE_LEVELS = ("functionals", "lld")
TOKENIZER_KINDS = ("encoder", "codec", "log_mel")


@strict
class TokenFusionConfig(PreTrainedConfig):
    r"""
    Configuration of a [`TokenFusionForAudioClassification`]: emotion from several streams of discrete tokens, the k-means
    tokens of layers of a self-supervised encoder or the codebooks of a neural codec, with openSMILE features (arXiv
    2601.17085). What that paper leaves open follows public code of its field: layers, number of clusters, embeddings and
    attention over layers those of DASB's emotion recipe, pooling and head those of the MSP-Podcast challenge baseline.

    Args:
        num_streams (`int`, *optional*, defaults to 6): L, layers of the encoder or codebooks of the codec.
        vocab_size (`int`, *optional*, defaults to 1000): K, tokens of each stream.
        hidden_size (`int`, *optional*, defaults to 1024):
            D, width of a stream's vectors. With an encoder it is the encoder's width, that of its centroids.
        quantized (`bool`, *optional*, defaults to `True`):
            Tokens go in. `False`: the continuous counterpart, the encoder's features themselves; all else is the same.
        train_embeddings (`bool`, *optional*, defaults to `True`): Whether the tokens' vectors are trained.
        layer_fusion (`str`, *optional*, defaults to `"frame"`):
            How streams become one: `"frame"`, attention over the streams at each frame; `"utterance"`, one attention for
            the clip; `"mean"`; `"single"`, that of `single_stream`.
        single_stream (`int`, *optional*): `"single"`: index of the stream, 0..num_streams - 1.
        fusion_hidden_size (`int`, *optional*): Width of the attention over streams; `None` means `hidden_size`.
        pooling_hidden_size (`int`, *optional*): Width of the attention over frames; `None` means `hidden_size`.
        pooled_norm (`bool`, *optional*, defaults to `False`): Batch norm of the pooled vector, as ECAPA-TDNN has it.
        opensmile_fusion (`str`, *optional*, defaults to `"none"`):
            `"early"`: added to every frame; `"late"`: beside the pooled vector; `"gate"`: mixed with the pooled vector,
            dimension by dimension, in learned shares; `"none"`.
        opensmile_level (`str`, *optional*, defaults to `"functionals"`):
            `"functionals"`: one vector a clip; `"lld"`: low-level descriptors, a vector a frame of openSMILE.
        opensmile_size (`int`, *optional*, defaults to 88):
            S, their number: eGeMAPSv02 has 88 functionals and 25 descriptors, ComParE_2016 6373 and 65.
        opensmile_hidden_size (`int`, *optional*, defaults to 128): Width that they are projected to.
        classifier_hidden_size (`int`, *optional*, defaults to 1024): Width of the head.
        classifier_dropout (`float`, *optional*, defaults to 0.5): Dropout before and in the head.
        class_weights (`list[float]`, *optional*): Weight of each class in the cross-entropy; `None`: 1.
        tokenizer_kind (`str`, *optional*, defaults to `"encoder"`):
            What makes the streams: `"encoder"`, `"codec"`, or `"log_mel"`, a control that has learnt nothing: one stream of
            `hidden_size` log-mel bands, 50 frames a second; with it `tokenizer_layers` is `[0]`.
        tokenizer_model (`str`, *optional*):
            Its Hub id or folder; one that starts with `./` or `../` is relative to this model's own folder. Needed for
            waveforms only.
        tokenizer_revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit of it; where it lies in this model's own Hub repository (`./codec`), of that.
        tokenizer_layers (`list[int]`, *optional*):
            `"encoder"`: which of its `hidden_states` are the streams, in order; 0 is the input of the first layer.
        tokenizer_frame_rate (`float`, *optional*, defaults to 50.0):
            `"encoder"`: its frames a second; what it returns past a clip's end (Whisper pads to 30 s) is cut.
        tokenizer_bandwidth (`float`, *optional*): `"codec"`: kbps, for codecs whose `encode` takes a `bandwidth`.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate of `input_values` in Hz.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the linear layers' initial weights.

    Example:

    ```python
    >>> from hf_affectcodec.modeling.configuration_token_fusion import TokenFusionConfig

    >>> configuration = TokenFusionConfig(tokenizer_model="microsoft/wavlm-large", tokenizer_layers=[1, 3, 7, 12, 18, 23])
    >>> configuration.num_streams
    6
    ```"""

    model_type = "token_fusion"

    num_streams: int = 6
    vocab_size: int = 1000
    hidden_size: int = 1024
    quantized: bool = True
    train_embeddings: bool = True
    layer_fusion: str = "frame"
    single_stream: int | None = None
    fusion_hidden_size: int | None = None
    pooling_hidden_size: int | None = None
    pooled_norm: bool = False
    opensmile_fusion: str = "none"
    opensmile_level: str = "functionals"
    opensmile_size: int = 88
    opensmile_hidden_size: int = 128
    classifier_hidden_size: int = 1024
    classifier_dropout: float = 0.5
    class_weights: list[float] | tuple[float, ...] | None = None
    tokenizer_kind: str = "encoder"
    tokenizer_model: str | None = None
    tokenizer_revision: str = "main"
    tokenizer_layers: list[int] | tuple[int, ...] | None = None
    tokenizer_frame_rate: float = 50.0
    tokenizer_bandwidth: float | None = None
    sampling_rate: int = 16000
    initializer_range: float = 0.02

    def validate_architecture(self):
        for name, allowed in (
            ("layer_fusion", LAYER_FUSIONS),
            ("opensmile_fusion", OPENSMILE_FUSIONS),
            ("opensmile_level", OPENSMILE_LEVELS),
            ("tokenizer_kind", TOKENIZER_KINDS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("num_streams", "vocab_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if (self.single_stream is None) == (self.layer_fusion == "single"):
            raise ValueError("`single_stream` must be given with `layer_fusion='single'`, and only then")
        if self.single_stream is not None and not 0 <= self.single_stream < self.num_streams:
            raise ValueError(f"`single_stream` must lie in 0..{self.num_streams - 1}, got {self.single_stream}")
        if self.tokenizer_kind == "codec" and not self.quantized:
            raise ValueError("`quantized` = False needs `tokenizer_kind` = 'encoder': a codec gives tokens")
        if self.tokenizer_kind == "log_mel" and (self.tokenizer_model is not None or self.tokenizer_layers != [0]):
            raise ValueError("`tokenizer_kind` = 'log_mel' needs `tokenizer_layers` = [0] and no `tokenizer_model`")
        if self.tokenizer_kind == "codec" and self.tokenizer_layers is not None:
            raise ValueError("`tokenizer_layers` are an encoder's; a codec's streams are its first codebooks")
        if self.tokenizer_layers is not None and len(self.tokenizer_layers) != self.num_streams:
            raise ValueError(
                f"`tokenizer_layers` must name {self.num_streams} layers (`num_streams`), got {self.tokenizer_layers}"
            )
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            raise ValueError(f"`class_weights` must have one weight a label ({self.num_labels})")


__all__ = ["TokenFusionConfig"]
