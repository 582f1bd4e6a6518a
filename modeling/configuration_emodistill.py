"""Configurations of EmoDistill: the student and its two teachers."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_affectcodec import AffectCodecConfig


ENCODERS = ("affectcodec", "hubert", "wav2vec2", "wavlm", "whisper")
POOLINGS = ("mean", "mean_std")
TEXT_POOLINGS = ("cls", "mean")


def _check_class_weights(config: PreTrainedConfig):
    if config.class_weights is not None and len(config.class_weights) != config.num_labels:
        raise ValueError(f"`class_weights` must have one weight a label ({config.num_labels})")


def _check_positive(config: PreTrainedConfig, *names: str):
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(config, name)}")


@strict
class EmoDistillConfig(PreTrainedConfig):
    r"""
    Configuration of a [`EmoDistillForAudioClassification`], the speech-only student of EmoDistill (arXiv 2309.04849), and of
    the objective that it is distilled with, `hf_affectcodec.objectives.emodistill`. The paper states the two temperatures;
    weights of the terms, widths and the factor tau^2 are not known, and the defaults are ours.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a `HubertConfig`):
            Of the speech encoder, which is part of the student: `hubert`, `wavlm`, `wav2vec2`, `whisper` (its encoder) or
            `affectcodec` (its latents; the codec's decoder is left out).
        pooling (`str`, *optional*, defaults to `"mean"`):
            What the projections read of a clip's frames: `"mean"`, or `"mean_std"`, their standard deviation beside it.
        linguistic_size (`int`, *optional*, defaults to 768):
            Width of the linguistic projection, that of the linguistic teacher's embedding (BERT-base: 768).
        prosodic_size (`int`, *optional*, defaults to 512): The same of the prosodic teacher (ResNet: 512).
        projection_hidden_size (`int`, *optional*, defaults to 768): Hidden width of the projections.
        shared_projection (`bool`, *optional*, defaults to `False`):
            Both projections have one hidden layer in common and differ in their last matrix only (ablation).
        classifier_hidden_size (`int`, *optional*, defaults to 256): Hidden width of the head.
        dropout (`float`, *optional*, defaults to 0.1): In the projections and the head.
        class_weights (`list[float]`, *optional*): Weight of each class in the cross-entropy; `None`: 1.
        linguistic_temperature (`float`, *optional*, defaults to 4.0): tau_L.
        prosodic_temperature (`float`, *optional*, defaults to 0.5): tau_P.
        temperature_squared (`bool`, *optional*, defaults to `True`):
            Whether the divergence of logits is multiplied by tau^2, which makes its gradient comparable between temperatures
            (Hinton et al., 2015). The paper does not say; between tau_L = 4 and tau_P = 0.5 it is a factor of 64.
        linguistic_logit_weight (`float`, *optional*, defaults to 1.0): Of the divergence from the linguistic teacher.
        prosodic_logit_weight (`float`, *optional*, defaults to 1.0): Of the divergence from the prosodic teacher.
        linguistic_embedding_weight (`float`, *optional*, defaults to 1.0): Of the cosine term of the linguistic teacher.
        prosodic_embedding_weight (`float`, *optional*, defaults to 1.0): Of the cosine term of the prosodic teacher.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the linear layers' initial weights.

    Example:

    ```python
    >>> from transformers import WavLMConfig
    >>> from hf_affectcodec.modeling.configuration_emodistill import EmoDistillConfig

    >>> configuration = EmoDistillConfig(encoder_config=WavLMConfig(), num_labels=4)
    >>> configuration.encoder_config.model_type
    'wavlm'
    ```"""

    model_type = "emodistill"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="hubert")}

    encoder_config: dict | PreTrainedConfig | None = None
    pooling: str = "mean"
    linguistic_size: int = 768
    prosodic_size: int = 512
    projection_hidden_size: int = 768
    shared_projection: bool = False
    classifier_hidden_size: int = 256
    dropout: float = 0.1
    class_weights: list[float] | tuple[float, ...] | None = None
    linguistic_temperature: float = 4.0
    prosodic_temperature: float = 0.5
    temperature_squared: bool = True
    linguistic_logit_weight: float = 1.0
    prosodic_logit_weight: float = 1.0
    linguistic_embedding_weight: float = 1.0
    prosodic_embedding_weight: float = 1.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        # `AutoConfig` does not know the codec where the package is not installed (remote code)
        if isinstance(self.encoder_config, dict) and self.encoder_config.get("model_type") == "affectcodec":
            self.encoder_config = AffectCodecConfig(**self.encoder_config)
        super().__post_init__(**kwargs)

    @property
    def pooled_size(self) -> int:
        """Width of what the projections read."""
        return self.encoder_config.hidden_size * (2 if self.pooling == "mean_std" else 1)

    def validate_architecture(self):
        if self.encoder_config.model_type not in ENCODERS:
            raise ValueError(f"`encoder_config` must be of one of {ENCODERS}, got {self.encoder_config.model_type!r}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {POOLINGS}, got {self.pooling!r}")
        _check_positive(self, "linguistic_size", "prosodic_size", "projection_hidden_size", "classifier_hidden_size")
        _check_positive(self, "linguistic_temperature", "prosodic_temperature")
        for teacher in ("linguistic", "prosodic"):
            for name in (f"{teacher}_logit_weight", f"{teacher}_embedding_weight"):
                if getattr(self, name) < 0:
                    raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        _check_class_weights(self)


@strict
class EmoDistillProsodicTeacherConfig(PreTrainedConfig):
    r"""
    Configuration of an [`EmoDistillProsodicTeacher`]: a residual network over the low-level descriptors of eGeMAPSv02 (arXiv
    2309.04849). The paper names neither its depth nor its form. The defaults are those of ResNet-18 in one dimension: the
    descriptors are channels, as they have no order that a second dimension could use.

    Args:
        feature_size (`int`, *optional*, defaults to 25): Descriptors a frame.
        hidden_sizes (`list[int]`, *optional*, defaults to `(64, 128, 256, 512)`):
            Channels of each stage; every stage but the first halves the frame rate. The last is the embedding's width.
        depths (`list[int]`, *optional*, defaults to `(2, 2, 2, 2)`): Residual blocks of each stage.
        kernel_size (`int`, *optional*, defaults to 3): Of the blocks' convolutions, odd.
        stem_kernel_size (`int`, *optional*, defaults to 7): Of the first convolution (stride 2), odd.
        dropout (`float`, *optional*, defaults to 0.1): Before the last linear layer.
        class_weights (`list[float]`, *optional*): Weight of each class in the cross-entropy; `None`: 1.
    """

    model_type = "emodistill_prosodic_teacher"

    feature_size: int = 25
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    kernel_size: int = 3
    stem_kernel_size: int = 7
    dropout: float = 0.1
    class_weights: list[float] | tuple[float, ...] | None = None

    def validate_architecture(self):
        if not self.hidden_sizes or len(self.depths) != len(self.hidden_sizes):
            raise ValueError(
                f"`depths` must have one entry for each of `hidden_sizes` ({len(self.hidden_sizes)}), got {self.depths}"
            )
        for name in ("hidden_sizes", "depths"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("kernel_size", "stem_kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"`{name}` must be odd, got {getattr(self, name)}")
        _check_class_weights(self)


@strict
class EmoDistillLinguisticTeacherConfig(PreTrainedConfig):
    r"""
    Configuration of an [`EmoDistillLinguisticTeacher`]: a text encoder with a linear layer on top (arXiv 2309.04849:
    BERT-base).

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a `BertConfig`): Of the text encoder.
        pooling (`str`, *optional*, defaults to `"cls"`):
            The embedding: `"cls"`, BERT's pooled first token; `"mean"`, the mean of the last hidden states over the tokens
            (what sentence encoders such as MiniLM were trained with).
        dropout (`float`, *optional*, defaults to 0.1): Before the last linear layer.
        class_weights (`list[float]`, *optional*): Weight of each class in the cross-entropy; `None`: 1.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the linear layer's initial weights.
    """

    model_type = "emodistill_linguistic_teacher"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    text_config: dict | PreTrainedConfig | None = None
    pooling: str = "cls"
    dropout: float = 0.1
    class_weights: list[float] | tuple[float, ...] | None = None
    initializer_range: float = 0.02

    def validate_architecture(self):
        if self.pooling not in TEXT_POOLINGS:
            raise ValueError(f"`pooling` must be one of {TEXT_POOLINGS}, got {self.pooling!r}")
        _check_class_weights(self)


__all__ = ["EmoDistillConfig", "EmoDistillLinguisticTeacherConfig", "EmoDistillProsodicTeacherConfig"]
