"""Recipes of the speech language model."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from recipe import DataSource, build_data_source

from hf_affectcodec.settings import build_dataclass, read_yaml


PREFIX_MODES = (0, 1, 2)


@dataclass
class StageRecipe:
    """
    How one stage sees its data. Of a share `text_dropout` of the utterances the text is hidden, so that `guidance_scale` of
    generate can guide towards it. The last three belong to the non-autoregressive stage: `prefix_mode` is the public VALL-E's
    (0: no acoustic prompt; 1: the utterance's beginning; 2: a segment of it), `no_prompt_share` the share of its batches that
    have none all the same, so that the model also speaks without one. With `start_from_ar` it starts from the weights of the
    first stage, which must be trained before ([`stage_transfer.start_nar_from_ar`]).
    """

    epochs: int
    max_seconds: float
    accumulate: int = 1
    num_buckets: int = 10
    text_dropout: float = 0.0
    prefix_mode: int = 1
    no_prompt_share: float = 0.0
    start_from_ar: bool = False


@dataclass
class ScaledAdamRecipe:
    """
    ScaledAdam under Eden; see [`scaled_adam.eden`]. Steps are in proportion to a tensor's size, and biases start at 0: with the
    `param_min_rms` of the public recipes they stay there, with .01 they learn.
    """

    learning_rate: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 120
    decay_steps: float = 5000
    decay_epochs: float = 4
    param_min_rms: float = 1e-5


@dataclass
class AdamWRecipe:
    """AdamW under a linear warm-up and a cosine over the `steps` of the run, which are counted when it starts."""

    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    warmup_steps: int = 200
    final_learning_rate_ratio: float = 0.0
    steps: int | None = None


@dataclass
class GuidedAttentionRecipe:
    """
    Of both stages; see [`guided_attention.guided_attention_loss`]. `weight` multiplies it beside the
    cross-entropy, both a frame, and falls to 0 in a straight line over `steps` (`None`: it stays): speech is not quite on the
    diagonal, so the heads must be free in the end. Utterances with an alignment (column `phoneme_ends`) guide by that,
    `symbol_width` symbols wide; others by the diagonal, `width` of their length wide. `layers` count from 0. Attention is
    computed the plain way, with its weights, in such runs.
    """

    weight: float = 1.0
    steps: int | None = None
    layers: list[int] = field(default_factory=lambda: [2, 3])
    heads: int = 1
    width: float = 0.15
    symbol_width: float = 1.0


@dataclass
class TTSRecipe:
    """
    One speech language model. `model` holds the keyword arguments of its configuration class but the codec's, which is
    `codec`, a folder or Hub id (`None`: the checkpoint shipped in the package). With `codec_embeddings` the embeddings of codes
    start as the codec's codebooks ([`codec_embeddings.codebook_embeddings`]), else at random. AdamW is used where `adamw` is
    given. `lora` holds arguments of `peft.LoraConfig` and trains an adapter to `init_from`, a trained model. `transcriber`, a
    Hub id, makes evaluations print the word error rate of samples. Rows of other `languages` than those named are left out.
    `guided_attention` shows heads where in the text they are. With `emotions`, labels of the column that `column_map` calls
    `emotion`, each text begins with its label's symbol, but for a share `emotion_dropout`; rows of other labels have none.
    """

    streaming: ClassVar[bool] = False  # data sets of codes are small: they are read whole

    name: str
    train: list[DataSource]
    validation: list[DataSource]
    ar: StageRecipe
    nar: StageRecipe
    model: dict = field(default_factory=dict)
    codec: str | None = None
    codec_embeddings: bool = False
    init_from: str | None = None
    lora: dict | None = None
    language: str = "en-us"
    languages: list[str] | None = None
    emotions: list[str] | None = None
    emotion_dropout: float = 0.1
    min_seconds: float = 0.5
    max_seconds: float = 14.0
    scaled_adam: ScaledAdamRecipe = field(default_factory=ScaledAdamRecipe)
    adamw: AdamWRecipe | None = None
    guided_attention: GuidedAttentionRecipe | None = None
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    seed: int = 0
    log_every: int = 50
    evaluate_every: int = 2000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    evaluation_clips: int = 32
    evaluation_samples: int = 2
    transcriber: str | None = None
    max_nonfinite_steps: int = 20

    def stage(self, name: str) -> StageRecipe:
        return {"ar": self.ar, "nar": self.nar}[name]

    def to_dict(self) -> dict:
        return asdict(self)


def load_recipe(path: Path, data_root: str = "data", overrides: list[str] = ()) -> TTSRecipe:
    """
    Reads a recipe as [`recipe.load_recipe`] does the codec's.

    Raises:
        ValueError: naming the file and the key that is unknown or out of range.
    """
    values = read_yaml(path, overrides)
    for split in ("train", "validation"):
        values[split] = [build_data_source(v, data_root, f"{path}: {split}") for v in values.get(split, [])]
    parts = {"ar": StageRecipe, "nar": StageRecipe, "scaled_adam": ScaledAdamRecipe, "adamw": AdamWRecipe}
    parts["guided_attention"] = GuidedAttentionRecipe
    for name, cls in parts.items():
        if values.get(name) is not None:
            values[name] = build_dataclass(cls, values[name], f"{path}: {name}")
    recipe = build_dataclass(TTSRecipe, values, str(path))
    if recipe.nar.prefix_mode not in PREFIX_MODES:
        raise ValueError(f"{path}: `nar.prefix_mode` must be one of {PREFIX_MODES}, got {recipe.nar.prefix_mode!r}")
    if recipe.codec_embeddings and recipe.init_from is not None:
        raise ValueError(f"{path}: `codec_embeddings` starts a new model, but `init_from` names a trained one")
    if recipe.lora is not None and recipe.init_from is None:
        raise ValueError(f"{path}: `lora` adapts a trained model, which `init_from` must name")
    if recipe.lora is not None and recipe.adamw is None:
        # ScaledAdam's steps are in proportion to a tensor's size, and half of an adapter's matrices start at 0.
        raise ValueError(f"{path}: `lora` needs `adamw`: ScaledAdam hardly moves matrices that start at 0")
    for name in ("width", "symbol_width"):
        value = getattr(recipe.guided_attention, name, 1.0)
        if not value > 0:
            raise ValueError(f"{path}: `guided_attention.{name}` must be positive, got {value}")
    if not 0 <= recipe.emotion_dropout <= 1:
        raise ValueError(f"{path}: `emotion_dropout` must lie in [0, 1], got {recipe.emotion_dropout}")
    for stage in ("ar", "nar"):
        share = recipe.stage(stage).text_dropout
        if not 0 <= share <= 1:
            raise ValueError(f"{path}: `{stage}.text_dropout` must lie in [0, 1], got {share}")
    if recipe.mixed_precision not in ("no", "bf16"):
        raise ValueError(f"{path}: `mixed_precision` must be 'no' or 'bf16', got {recipe.mixed_precision!r}")
    return recipe
