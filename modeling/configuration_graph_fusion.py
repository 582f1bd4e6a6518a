"""GraphFusion model configuration."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


FUSIONS = ("mdat", "gat", "hcam", "transformer", "concat")
GRAPH_ATTENTIONS = ("gat", "gatv2")
HEADS = ("swiglu", "linear")
CLASSIFICATION_LOSSES = ("cross_entropy", "focal")
FEATURE_SIZES = {"audio": 1280, "text": 1024}
TOKEN_SIZES = {"f0": 257}


@strict
class GraphFusionConfig(PreTrainedConfig):
    r"""
    Configuration of a [`GraphFusionForAudioClassification`]. The defaults are the system of arXiv 2506.02088 as its public
    code has it (Whisper-large-v3, RoBERTa-large, F0 in 256 bins; 11.8 M parameters with 8 classes); it differs from the
    paper's words in two points: its graph joins the time steps of one modality (not the modalities), with one head (not
    eight). `fusion="gat"` and `graph_num_heads=8` are what the words say.

    Args:
        feature_sizes (`dict[str, int]`, *optional*, defaults to `{"audio": 1280, "text": 1024}`):
            Modalities that come as sequences of vectors, and their widths. A vector for the whole utterance is a sequence
            of length 1.
        token_sizes (`dict[str, int]`, *optional*, defaults to `{"f0": 257}`):
            Modalities that come as sequences of tokens, and the sizes of their vocabularies. The last entry is padding.
        fused_modalities (`tuple[str]`, *optional*, defaults to `("audio", "text")`):
            Modalities that the fusion joins, in the order in which `hcam` updates them. The others are projected and
            averaged over time, and enter the head beside the fused ones, as F0 does in the published system.
        fusion (`str`, *optional*, defaults to `"mdat"`):
            `"mdat"` (graph attention over time, co-attention, a transformer layer), `"gat"` (graph attention over time,
            then over modalities), `"hcam"` (BiGRU, self-attention, cross-attention), `"transformer"` (a transformer layer
            each) or `"concat"` (means, projected).
        hidden_size (`int`, *optional*, defaults to 512): Width of the projected modalities.
        num_attention_heads (`int`, *optional*):
            Heads of the transformer layers and of `hcam`. As published by default: 8, but 1 with `fusion="transformer"`.
        intermediate_size (`int`, *optional*, defaults to 2048): Width of the transformer layers' feed-forward part.
        graph_attention (`str`, *optional*, defaults to `"gat"`):
            `"gat"` (arXiv 1710.10903) or `"gatv2"` (arXiv 2105.14491; costs `hidden_size` times more).
        graph_num_heads (`int`, *optional*, defaults to 1): Heads of the graph attention.
        negative_slope (`float`, *optional*, defaults to 0.2): Slope of the graph attention's leaky ReLU below zero.
        frame_pooling (`dict[str, int]`, *optional*):
            Fused modalities whose steps are averaged, so many at a time, before they are joined. Attention costs the square of
            the number of steps less. Ours; none by default.
        pooled_statistics (`bool`, *optional*, defaults to `False`):
            Whether the mean and the standard deviation over time of each fused sequence of vectors, projected, are added to
            what the fusion makes of it. Ours: on some hundred clips it is what a model holds on to.
        head (`str`, *optional*, defaults to `"swiglu"`): `"swiglu"` or `"linear"`.
        head_hidden_size (`int`, *optional*, defaults to 768): Inner width of the SwiGLU head.
        dropout (`float`, *optional*, defaults to 0.5): Dropout of projections, transformer layers and head.
        modality_dropout (`float`, *optional*, defaults to 0.0):
            Probability that a training item loses a modality; one always stays. Ours: it teaches the model to do with
            what there is. Above 0 it is what makes predictions without a modality meaningful.
        classification_loss (`str`, *optional*, defaults to `"cross_entropy"`): `"cross_entropy"` or `"focal"`.
        class_weights (`list[float]`, *optional*): One weight a class; the published runs use N / N_class.
        focal_alpha (`float`, *optional*, defaults to 0.5): Constant factor of the focal loss.
        focal_gamma (`float`, *optional*, defaults to 2.0): Exponent of the focal loss.
        speech_encoders (`dict[str, str]`, *optional*):
            Where the sequences of vectors come from when the model is given a waveform: modality to the Hub id or folder of
            an encoder of 50 frames a second, such as `{"audio": "openai/whisper-large-v3"}`. A folder that starts with `./`
            or `../` is relative to this model's own. A modality that has no encoder and is not given is absent.
        text_encoder (`str`, *optional*):
            Hub id or folder of the encoder of the modality `"text"`, such as `"FacebookAI/roberta-large"`.
        recognizer (`str`, *optional*):
            Hub id or folder of the speech recogniser (Whisper, or any CTC model) that makes transcripts where none are given;
            `None`: then `"text"` is absent.
        encoder_revisions (`dict[str, str]`, *optional*): Branch, tag or commit of those of them that are not at `"main"`.
        encoder_window_seconds (`float`, *optional*, defaults to 30.0):
            Longer waveforms are run through encoders and recogniser in windows of this length, a multiple of 0.02 s.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate of `input_values` in Hz.

    Example:

    ```python
    >>> from hf_affectcodec.modeling.configuration_graph_fusion import GraphFusionConfig
    >>> from hf_affectcodec.modeling.modeling_graph_fusion import GraphFusionForAudioClassification

    >>> config = GraphFusionConfig(num_labels=8)
    >>> config.modalities
    ['audio', 'text', 'f0']
    >>> model = GraphFusionForAudioClassification(config)
    ```"""

    model_type = "graph_fusion"

    feature_sizes: dict[str, int] | None = None
    token_sizes: dict[str, int] | None = None
    fused_modalities: list[str] | tuple[str, ...] = ("audio", "text")
    fusion: str = "mdat"
    hidden_size: int = 512
    num_attention_heads: int | None = None
    intermediate_size: int = 2048
    graph_attention: str = "gat"
    graph_num_heads: int = 1
    negative_slope: float = 0.2
    frame_pooling: dict[str, int] | None = None
    pooled_statistics: bool = False
    head: str = "swiglu"
    head_hidden_size: int = 768
    dropout: float = 0.5
    modality_dropout: float = 0.0
    classification_loss: str = "cross_entropy"
    class_weights: list[float] | None = None
    focal_alpha: float = 0.5
    focal_gamma: float = 2.0
    speech_encoders: dict[str, str] | None = None
    text_encoder: str | None = None
    recognizer: str | None = None
    encoder_revisions: dict[str, str] | None = None
    encoder_window_seconds: float = 30.0
    sampling_rate: int = 16000

    def __post_init__(self, **kwargs):
        if self.feature_sizes is None:
            self.feature_sizes = dict(FEATURE_SIZES)
        if self.token_sizes is None:
            self.token_sizes = dict(TOKEN_SIZES)
        if self.num_attention_heads is None:
            self.num_attention_heads = 1 if self.fusion == "transformer" else 8
        if self.speech_encoders is None:
            self.speech_encoders = {}
        if self.frame_pooling is None:
            self.frame_pooling = {}
        if self.encoder_revisions is None:
            self.encoder_revisions = {}
        super().__post_init__(**kwargs)

    @property
    def modalities(self) -> list[str]:
        """Names of all modalities: vectors first, then tokens."""
        return [*self.feature_sizes, *self.token_sizes]

    def validate_architecture(self):
        """Part of the validation that `@strict` runs."""
        for name, allowed in (
            ("fusion", FUSIONS),
            ("graph_attention", GRAPH_ATTENTIONS),
            ("head", HEADS),
            ("classification_loss", CLASSIFICATION_LOSSES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}")
        twice = sorted(set(self.feature_sizes) & set(self.token_sizes))
        if twice:
            raise ValueError(f"`token_sizes` names {twice}, which `feature_sizes` has too")
        if not self.modalities:
            raise ValueError("`feature_sizes` and `token_sizes` must not both be empty")
        wrong = [name for name in self.modalities if not name.isidentifier()]
        if wrong:
            raise ValueError(f"`feature_sizes` and `token_sizes` must name modalities by identifiers, got {wrong}")
        if not self.fused_modalities or len(set(self.fused_modalities)) != len(self.fused_modalities):
            raise ValueError(f"`fused_modalities` must name one modality or more, once, got {self.fused_modalities}")
        unknown = [name for name in self.fused_modalities if name not in self.modalities]
        if unknown:
            raise ValueError(f"`fused_modalities` names {unknown}; there are {self.modalities}")
        unknown = sorted(set(self.frame_pooling) - set(self.fused_modalities))
        if unknown or min(self.frame_pooling.values(), default=1) < 1:
            raise ValueError(f"`frame_pooling` must hold 1 or more for fused modalities, got {self.frame_pooling}")
        for name in ("num_attention_heads", "graph_num_heads"):
            if getattr(self, name) < 1 or self.hidden_size % getattr(self, name):
                raise ValueError(f"`{name}` must divide `hidden_size` ({self.hidden_size}), got {getattr(self, name)}")
        self._validate_encoders()
        for name in ("dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}")
        if self.class_weights is not None and (
            len(self.class_weights) != self.num_labels or min(self.class_weights) < 0
        ):
            raise ValueError(
                f"`class_weights` must hold {self.num_labels} numbers (`num_labels`), 0 or more, got {self.class_weights}"
            )

    def _validate_encoders(self):
        unknown = sorted(set(self.speech_encoders) - set(self.feature_sizes))
        if unknown:
            raise ValueError(f"`speech_encoders` names {unknown}; vectors are {sorted(self.feature_sizes)}")
        if self.text_encoder is not None and ("text" not in self.feature_sizes or "text" in self.speech_encoders):
            raise ValueError(
                "`text_encoder` makes the modality 'text': it must be in `feature_sizes` and have no other encoder"
            )
        if self.recognizer is not None and self.text_encoder is None:
            raise ValueError("`recognizer` makes transcripts for `text_encoder`, and there is none")
        named = {*self.speech_encoders.values(), self.text_encoder, self.recognizer}
        unknown = sorted(set(self.encoder_revisions) - named)
        if unknown:
            raise ValueError(f"`encoder_revisions` names {unknown}, which is no encoder of this configuration")
        hops = self.encoder_window_seconds * 50
        if hops < 1 or abs(hops - round(hops)) > 1e-6:
            raise ValueError(
                f"`encoder_window_seconds` must be a positive multiple of 0.02, got {self.encoder_window_seconds}"
            )


__all__ = ["GraphFusionConfig"]
