"""Recipes: YAML files that say everything about a codec training run."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from hf_affectcodec.data.corpora import find_corpus, require_corpus
from hf_affectcodec.data.streaming import StreamSource
from hf_affectcodec.settings import build_dataclass, read_yaml


@dataclass
class DataSource:
    """
    Where clips come from; the arguments of [`hf_affectcodec.data.clips.load_clips`], and, where the recipe streams, a
    weight. `corpus` names one of the catalogue, which fills in what is not given here.
    """

    source: str | list[str] | None = None
    split: str = "train"
    column_map: dict[str, str] | None = None
    config_name: str | None = None
    corpus: str | None = None
    weight: float | None = None

    def to_stream(self) -> StreamSource:
        weight = 1.0 if self.weight is None else self.weight
        return StreamSource(self.source, self.split, self.column_map, self.config_name, weight)


@dataclass
class TeacherSource:
    """
    Cached teacher features (`extract_features.py`) and which of its teachers plays which part; `None`: no such teacher.

    Frame features in `standardize` are z-scored with the statistics of the cache.
    """

    folder: str
    emotion: str | None = None
    semantic: str | None = None
    text: str | None = None
    standardize: list[str] = field(default_factory=list)


@dataclass
class LossWeights:
    """Weights of the terms of L_total (arXiv 2605.11098, Eq. for L_total; the paper states none of them)."""

    mel: float = 15.0
    adversarial: float = 1.0
    feature: float = 2.0
    commitment: float = 10.0
    waveform: float = 0.0
    relational: float = 0.0
    alignment: float = 0.0
    self_guidance: float = 0.0
    feature_distillation: float = 0.0

    def need_teachers(self) -> bool:
        return any((self.relational, self.alignment, self.self_guidance, self.feature_distillation))


@dataclass
class CodecRecipe:
    """
    One training run. `model` and `discriminator` hold the keyword arguments of their configuration classes.

    `initial_model` and `initial_discriminator` (the latter's folder `discriminator`) are folders or Hub ids of trained
    weights to start from. What the recipe's model has beyond them starts fresh; `kmeans_steps: []` keeps their codebooks.
    """

    name: str
    model: dict
    train: list[DataSource]
    validation: list[DataSource]
    discriminator: dict | None = None
    initial_model: str | None = None
    initial_discriminator: str | None = None
    teachers: TeacherSource | None = None
    relational_emotion: float = 1.0
    relational_semantic: float = 1.0
    alignment_window: int = 3
    alignment_temperature: float = 1.0
    alignment_by_emotion: bool = True
    self_guided_share: float = 0.5
    loss_weights: LossWeights = field(default_factory=LossWeights)
    seed: int = 0
    steps: int = 100_000
    batch_size: int = 16
    crop_seconds: float = 3.0
    gain_db: tuple[float, float] | None = None
    learning_rate: float = 2e-4
    discriminator_learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 0
    final_learning_rate_ratio: float = 0.0
    discriminator_start: int = 0
    discriminator_every: int = 1
    discriminator_crop_seconds: float | None = None
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    kmeans_steps: tuple[int, ...] = (0,)
    kmeans_batches: int = 16
    weight_norm: bool = False
    log_every: int = 50
    evaluate_every: int = 2000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    evaluation_clips: int = 16
    max_nonfinite_steps: int = 20
    streaming: bool = False
    stream_workers: int = 0
    stream_buffer_size: int = 512

    def to_dict(self) -> dict:
        return asdict(self)


def _check_teachers(values: dict, path: Path):
    """What each distillation term needs; named before any data is read."""
    weights, teachers, model = values["loss_weights"], values.get("teachers"), values["model"]
    if not weights.need_teachers():
        return
    if teachers is None:
        raise ValueError(f"{path}: `loss_weights` has a distillation term above 0, which needs `teachers`")
    of_emotion = teachers.emotion is not None and values.get("relational_emotion", 1.0)
    of_semantic = teachers.semantic is not None and values.get("relational_semantic", 1.0)
    if weights.relational and not (of_emotion or of_semantic):
        raise ValueError(
            f"{path}: `loss_weights.relational` needs an emotion or a semantic teacher, and its `relational_emotion` or "
            "`relational_semantic` above 0"
        )
    if weights.alignment and (teachers.text is None or model.get("alignment_feature_size", 768) is None):
        raise ValueError(f"{path}: `loss_weights.alignment` needs a text teacher and `model.alignment_feature_size`")
    if weights.alignment and values.get("alignment_by_emotion", True) and teachers.emotion is None:
        raise ValueError(f"{path}: `alignment_by_emotion` needs an emotion teacher; without one set it to false")
    if weights.self_guidance and not model.get("self_guidance", False):
        raise ValueError(f"{path}: `loss_weights.self_guidance` needs `model.self_guidance`")
    sources = model.get("feature_distillation_sources", ())
    given = {"emotion": teachers.emotion, "semantic": teachers.semantic}
    if weights.feature_distillation and (not sources or any(given.get(source) is None for source in sources)):
        raise ValueError(
            f"{path}: `loss_weights.feature_distillation` needs `model.feature_distillation_sources` and their teachers"
        )


def _check_streaming(values: dict, path: Path):
    if any(source.weight is not None for source in values["validation"]):
        raise ValueError(f"{path}: `validation` takes no `weight`: its first clips are used")
    weights = [source.weight for source in values["train"]]
    if not values.get("streaming", False):
        if any(weight is not None for weight in weights):
            raise ValueError(f"{path}: `train` has a `weight`, which needs `streaming: true`")
    elif values.get("teachers") is not None:
        raise ValueError(f"{path}: `streaming` has no features of `teachers`; they need clips in memory")
    elif None in weights and any(weight is not None for weight in weights):
        raise ValueError(f"{path}: `train` must give a `weight` to all sources or to none, got {weights}")


def check_corpora(recipe: CodecRecipe):
    """
    Whether the corpora that the recipe names can be had.

    Raises:
        FileNotFoundError: A line for each one that is missing, with how to get it.
    """
    missing = {}
    for source in (*recipe.train, *recipe.validation):
        if source.corpus is not None:
            on_the_hub = source.source == find_corpus(source.corpus).hub_id
            try:
                require_corpus(source.corpus, None if on_the_hub else source.source)
            except (FileNotFoundError, PermissionError, ConnectionError) as error:
                missing[source.corpus] = str(error)
    if missing:
        raise FileNotFoundError("\n".join(missing.values()))


def _from_catalogue(source: DataSource, where: str):
    if source.corpus is None:
        if source.source is None:
            raise ValueError(f"{where}: each entry needs a `source` or a `corpus`")
        return
    corpus = find_corpus(source.corpus)
    if source.source is None:
        if corpus.hub_id is None:
            raise ValueError(f"{where}: the corpus {source.corpus!r} is not on the Hub and needs a `source`")
        source.source = corpus.hub_id
        source.config_name = source.config_name or corpus.config
    if source.column_map is None and corpus.columns is not None:
        source.column_map = {"audio": corpus.columns["audio"]}


def build_data_source(values: dict, data_root: str, where: str) -> DataSource:
    source = build_dataclass(DataSource, values, where)
    _from_catalogue(source, where)
    names = [source.source] if isinstance(source.source, str) else source.source
    names = [name.format(data_root=data_root) for name in names]
    source.source = names[0] if len(names) == 1 else names
    return source


def load_recipe(path: str | Path, data_root: str = "data", overrides: list[str] = ()) -> CodecRecipe:
    """
    Reads a recipe.

    Args:
        path: The YAML file.
        data_root: Replaces `{data_root}` in the data paths.
        overrides: `key=value` strings, dots for nested keys, values in YAML: `["steps=100", "model.hidden_size=64"]`.

    Raises:
        ValueError: naming the file and the key that is unknown.
    """
    path = Path(path)
    values = read_yaml(path, overrides)
    for split in ("train", "validation"):
        values[split] = [build_data_source(v, data_root, f"{path}: {split}") for v in values.get(split, [])]
    values["loss_weights"] = build_dataclass(LossWeights, values.get("loss_weights", {}), f"{path}: loss_weights")
    if values.get("teachers") is not None:
        teachers = build_dataclass(TeacherSource, values["teachers"], f"{path}: teachers")
        teachers.folder = teachers.folder.format(data_root=data_root)
        values["teachers"] = teachers
    for name in ("initial_model", "initial_discriminator"):
        if values.get(name) is not None:
            values[name] = values[name].format(data_root=data_root)
    if values.get("initial_discriminator") is not None and values.get("discriminator") is None:
        raise ValueError(f"{path}: `initial_discriminator` needs a `discriminator`")
    _check_teachers(values, path)
    _check_streaming(values, path)
    if values.get("mixed_precision", "no") not in ("no", "bf16"):
        raise ValueError(f"{path}: `mixed_precision` must be 'no' or 'bf16', got {values['mixed_precision']!r}")
    for name in ("gain_db", "betas", "kmeans_steps"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return build_dataclass(CodecRecipe, values, str(path))
