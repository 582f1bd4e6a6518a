r"""
Hub repositories: the folder that is uploaded, its card, its checks.

    python -m hf_affectcodec.hub stage RUN/model STAGED --discriminator RUN/discriminator \
        --recipe RUN/recipe.yaml --log RUN/log.jsonl
    python -m hf_affectcodec.benchmarks.codec_table --models affectcodec=STAGED --data test.parquet --out RESULTS ...
    python -m hf_affectcodec.hub stage RUN/model STAGED --overwrite ... --results RESULTS/table.json --repo-id ORG/NAME ...

The first call stages everything but the card, so that what is measured is what is published (weights rounded to float16
are other weights). The last one adds the card, and refuses results that were measured on other weights. Models of other
families go by [`stage_model`] and [`model_card`].

    python -m hf_affectcodec.hub push RUN ORG/NAME

uploads a run as it stands to a private repository.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from .benchmarks.model_index import TASK, eval_results
from .data.corpora import find_corpus
from .data.error_text import first_line
from .modeling.feature_extraction_affectcodec import AffectCodecFeatureExtractor
from .modeling.modeling_affectcodec import AffectCodecModel
from .modeling.modeling_affectcodec_discriminator import AffectCodecDiscriminator
from .remote_code import (
    check_loads_the_same,
    load_complete,
    model_classes,
    remote_code_export,
    save_folder,
    save_with_code,
)


SUMS_FILE = "SHA256SUMS"


@dataclass(frozen=True)
class CardValues:
    """
    What the card says that neither the model nor the run's files know.

    Args:
        repo_id (`str`): Where the model will live, `org/name`.
        hardware (`str`): What it was trained on, in words.
        train_minutes (`float`): Minutes of speech in the training split.
        num_voices (`int`): Voices in it.
        languages (`tuple[str]`): Language codes of the training data.
        teachers (`dict[str, str]`, *optional*): Each teacher that it was trained with, and the licence of its weights.
        corpora (`tuple[str]`, *optional*): What it was trained on, by the names of the catalogue, which has their licences.
        license (`str`, *optional*): Licence of the weights, as the Hub spells it.
        course (`str`, *optional*): How the run went where its recipe alone would mislead (values changed on the way).
        dataset (`str`, *optional*): Name of the data of the results, as `model-index` spells it.
        dataset_name (`str`, *optional*): The same, for people.
        dataset_split (`str`, *optional*): Split of the results.
    """

    repo_id: str
    hardware: str
    train_minutes: float
    num_voices: int
    languages: tuple[str, ...]
    teachers: dict[str, str] = field(default_factory=dict)
    corpora: tuple[str, ...] = ("open-prompts",)
    license: str = "cc-by-sa-3.0"
    course: str = ""
    dataset: str = "open-prompts"
    dataset_name: str = "Asterisk core prompts (en, es, fr, it, ru)"
    dataset_split: str = "test"

    def __post_init__(self):
        _check_repo_id(self.repo_id)
        for name in ("hardware", "languages", "corpora", "license", "dataset", "dataset_name", "dataset_split"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; the card prints no blanks")
        for name in ("train_minutes", "num_voices"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)!r}")
        unlicensed = [name for name in self.corpora if find_corpus(name).license is None]
        if unlicensed:
            raise ValueError(
                f"`corpora`: the licence of {unlicensed[0]!r} is not known, so nothing trained on it is published"
            )


# ----- weights and code


def _save_codec(model_dir: Path, folder: Path, half: bool):
    model = load_complete(model_dir, "model_dir", AffectCodecModel, dtype=torch.float32)
    if not all(bool(layer.inited) for layer in model.quantizer.layers):
        raise ValueError(f"`model_dir` {str(model_dir)!r} holds codebooks that were never trained")
    if (model_dir / "preprocessor_config.json").is_file():
        extractor = AffectCodecFeatureExtractor.from_pretrained(model_dir)
    else:
        extractor = AffectCodecFeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=model.hop_length)
    for name in ("sampling_rate", "hop_length"):
        if getattr(extractor, name) != getattr(model.config, name):
            raise ValueError(f"`model_dir`: `{name}` of preprocessor_config.json is not the model's")
    save_with_code(model, folder, half)
    extractor.save_pretrained(folder)


def _save_discriminator(discriminator_dir: Path, folder: Path, half: bool):
    discriminator = load_complete(
        discriminator_dir, "discriminator_dir", AffectCodecDiscriminator, dtype=torch.float32
    )
    save_with_code(discriminator, folder / "discriminator", half)
    # transformers looks for the code of a subfolder's model in the root of the repository.
    for path in (folder / "discriminator").glob("*.py"):
        path.replace(folder / path.name)


# ----- the run's files


def _read_recipe(path: Path) -> dict:
    """The recipe with the training machine's paths taken out: `{data_root}/` and the last two parts remain."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        raise ValueError(f"`recipe_file` {path.name} must be a YAML mapping")

    def portable(source: str) -> str:
        return "{data_root}/" + "/".join(Path(source).parts[-2:]) if os.path.isabs(source) else source

    for split in ("train", "validation"):
        for data in recipe.get(split) or []:
            sources = data["source"]
            data["source"] = portable(sources) if isinstance(sources, str) else [portable(item) for item in sources]
    if recipe.get("teachers") is not None:
        recipe["teachers"]["folder"] = portable(recipe["teachers"]["folder"])
    return recipe


def _read_log(path: Path) -> dict:
    """Steps and hours of a run. After a resume a step may stand in the log twice; the later row counts."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seconds = {row["step"]: row["seconds"] for row in rows if "seconds" in row}
    if not seconds:
        raise ValueError(f"`log_file` {path.name} has no row with `step` and `seconds`")
    return {"steps": max(seconds), "hours": sum(seconds.values()) / 3600}


# ----- the card


def _nan(value):
    """null, as table.json writes NaN, back to NaN."""
    if isinstance(value, dict):
        return {key: _nan(item) for key, item in value.items()}
    return math.nan if value is None else value


def read_results(path: str | Path, model) -> tuple[str, dict]:
    """
    Args:
        path (`str` or `Path`): `table.json` of the codec table.
        model ([`AffectCodecModel`]): The one that is published.

    Returns:
        `tuple[str, dict]`: The model's name in the table, and the table.

    Raises:
        ValueError: The table was measured on other weights, or lacks a value of this model.
    """
    from .benchmarks.codec_table import METRICS
    from .benchmarks.codecs import fingerprint

    path = Path(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        # The versions behind the digest are those of the measuring process, and may differ.
        digests = {name: system["fingerprint"].split(" ")[0] for name, system in table["systems"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`results_json` {path.name} is no table.json of the codec table ({error})") from error
    digest = fingerprint(model).split(" ")[0]
    names = [name for name, found in digests.items() if found == digest]
    if not names:
        raise ValueError(
            f"`results_json` {path.name}: none of {sorted(digests)} is the staged model; "
            "run the codec table on the staged folder"
        )
    system = table["systems"][names[0]]
    values = {metric: system["metrics"].get(metric, {}).get("mean") for metric in METRICS}
    values |= {name: system.get(name) for name in ("kbps", "times_real_time")}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"`results_json` {path.name}: {names[0]} has no measured value of {', '.join(missing)}")
    return names[0], {**table, "systems": _nan(table["systems"]), "comparisons": _nan(table["comparisons"])}


def card_template_path(name: str) -> Path:
    """The Jinja2 template of a card, in the installed package or in a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "model_cards", here.parents[2] / "model_cards"):
        path = folder / f"{name}.md.jinja"
        if path.is_file():
            return path
    raise FileNotFoundError(f"no template model_cards/{name}.md.jinja in the package or the checkout")


def _template(name: str):
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(card_template_path(name).read_text(encoding="utf-8"))


def _attribution(corpus: str) -> str:
    """Whom a corpus wants named, where there is a text for it."""
    try:
        return card_template_path(f"attribution-{corpus}").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def codec_card(
    model, name: str, table: dict, recipe: dict, log: dict, values: CardValues, half: bool, weights: dict[str, str]
) -> ModelCard:
    """
    Args:
        model ([`AffectCodecModel`]): As it is published.
        name (`str`): Its name in the table.
        table (`dict`): The results, see [`read_results`].
        recipe (`dict`): The recipe it was trained by.
        log (`dict`): `steps` and `hours` of the run.
        values ([`CardValues`]): Everything else.
        half (`bool`): Whether the weights are stored in float16.
        weights (`dict[str, str]`): Each file of weights in the folder, the discriminators' if they go along, and its
            SHA-256.

    Raises:
        ValueError: The template uses something that is not there.
    """
    import jinja2

    from .benchmarks.codec_table import METRICS, markdown

    if (recipe.get("teachers") is None) != (not values.teachers):
        raise ValueError(
            "`teachers` of the card must name the recipe's teachers, each with its licence, and none where it has none"
        )
    if log["steps"] != recipe.get("steps"):
        raise ValueError(
            f"`log_file` ends at step {log['steps']}, `recipe_file` at {recipe.get('steps')}: "
            "they must be those of one run that was finished"
        )
    config = model.config
    dataset = {"type": values.dataset, "name": values.dataset_name, "split": values.dataset_split}
    data = ModelCardData(
        language=list(values.languages),
        license=values.license,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["audio", "speech", "neural-codec", "audio-tokenizer", "affectcodec", "arxiv:2605.11098"],
        metrics=list(METRICS),
        model_name=values.repo_id.split("/")[1],
        eval_results=eval_results(table, name, dataset),
    )
    template = _template("affectcodec")
    try:
        content = template.render(
            card_data=data.to_yaml(),
            config=config,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            half=half,
            discriminator="discriminator/model.safetensors" in weights,
            weights=weights,
            data=[find_corpus(corpus) for corpus in values.corpora],
            attributions=[_attribution(corpus) for corpus in values.corpora],
            recipe=recipe,
            steps=log["steps"],
            hours=log["hours"],
            results_table=markdown(table).strip(),
            n_clips=table["n_clips"],
            system=name,
            **asdict(values),
        )
    except jinja2.UndefinedError as error:
        raise ValueError(f"the card needs a value that is not there: {error}") from error
    return ModelCard(content)


@dataclass(frozen=True)
class ModelCardValues:
    """
    What the card of a model other than the codec says.

    Args:
        repo_id (`str`): Where it will live, `org/name`.
        summary (`str`): What it is, in a few sentences.
        pipeline_tag (`str`): Its task, as the Hub spells it.
        license (`str`): Licence of the weights, as the Hub spells it.
        languages (`tuple[str]`): Language codes of the training data.
        paper (`str`): arXiv number of what it implements.
        data (`dict[str, str]`): Each data set that it was trained on, and its licence.
        results (`tuple[EvalResult]`): What was measured.
        teachers (`dict[str, str]`, *optional*): Each teacher that it was trained with, and its licence.
        guests (`dict[str, str]`, *optional*): Each frozen model that it needs to run, and its licence.
        limits (`str`, *optional*): What not to conclude or do, in Markdown.
    """

    repo_id: str
    summary: str
    pipeline_tag: str
    license: str
    languages: tuple[str, ...]
    paper: str
    data: dict[str, str]
    results: tuple[EvalResult, ...]
    teachers: dict[str, str] = field(default_factory=dict)
    guests: dict[str, str] = field(default_factory=dict)
    limits: str = ""

    def __post_init__(self):
        _check_repo_id(self.repo_id)
        for name in ("summary", "pipeline_tag", "license", "languages", "paper", "data", "results"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; the card prints no blanks")
        for name in ("data", "teachers", "guests"):
            unlicensed = [key for key, license in getattr(self, name).items() if not license]
            if unlicensed:
                raise ValueError(f"`{name}`: {unlicensed[0]!r} has no licence")


def model_card(model_dir: str | Path, values: ModelCardValues) -> ModelCard:
    """
    The card of a model of any family, for [`stage_model`].

    Raises:
        ValueError: `model_dir` is no complete model of ours.
    """
    model = load_complete(Path(model_dir), "model_dir")
    data = ModelCardData(
        language=list(values.languages),
        license=values.license,
        library_name="transformers",
        pipeline_tag=values.pipeline_tag,
        tags=["audio", "speech", model.config.model_type, f"arxiv:{values.paper}"],
        metrics=sorted({result.metric_type for result in values.results}),
        model_name=values.repo_id.split("/")[1],
        eval_results=list(values.results),
    )
    return ModelCard(
        _template("model").render(
            card_data=data.to_yaml(),
            config=model.config,
            model_class=type(model).__name__,
            auto_class=next(iter(model_classes(type(model.config)))),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            values=values,
        )
    )


# ----- staging


def write_sums(folder: Path):
    """`SHA256SUMS` of every other file, as `sha256sum -c` reads it."""
    (folder / SUMS_FILE).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in _digests(folder).items()), encoding="utf-8"
    )


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != SUMS_FILE:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            digests[name] = digest.hexdigest()
    return digests


def verify_sums(folder: str | Path):
    """
    Raises:
        ValueError: A file is missing, was added or has changed since `SHA256SUMS` was written.
    """
    folder = Path(folder)
    if not (folder / SUMS_FILE).is_file():
        raise ValueError(f"`folder` {folder.name!r} has no {SUMS_FILE}; stage it first")
    lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _digests(folder)
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            state = "is missing" if name not in found else "is not listed" if name not in listed else "has changed"
            raise ValueError(f"`folder` {folder.name!r}: {name} {state} (by {SUMS_FILE})")


def stage_codec(
    model_dir: str | Path,
    output_dir: str | Path,
    *,
    half: bool = True,
    discriminator_dir: str | Path | None = None,
    recipe_file: str | Path | None = None,
    log_file: str | Path | None = None,
    results_json: str | Path | None = None,
    card_values: CardValues | None = None,
    overwrite: bool = False,
) -> Path:
    """
    Builds the folder of a Hub repository that loads with this package, and without it by `trust_remote_code`.

    Args:
        model_dir (`str` or `Path`): A trained [`AffectCodecModel`], as the trainer saves it.
        output_dir (`str` or `Path`): Where the folder goes; it appears only once it is whole.
        half (`bool`, *optional*, defaults to `True`):
            Store floating tensors, codebooks included, in float16. They load as float32 all the same.
        discriminator_dir (`str` or `Path`, *optional*): Its discriminators, for the subfolder `discriminator`.
        recipe_file, log_file (`str` or `Path`, *optional*): The run's `recipe.yaml` and `log.jsonl`.
        results_json (`str` or `Path`, *optional*):
            `table.json` of the codec table, measured on the folder staged without it. Without it there is no card.
        card_values ([`CardValues`], *optional*): What else the card says.
        overwrite (`bool`, *optional*, defaults to `False`): Replace `output_dir` if it is there.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: An argument is malformed, the card lacks a value, or the results are of other weights.
    """
    model_dir, output_dir = Path(model_dir), Path(output_dir)
    if output_dir.exists() and not overwrite:
        raise ValueError(f"`output_dir` {str(output_dir)!r} exists; remove it or pass overwrite")
    if results_json is not None:
        for name, value in (("recipe_file", recipe_file), ("log_file", log_file), ("card_values", card_values)):
            if value is None:
                raise ValueError(f"`{name}` is needed for the card that `results_json` asks for")
    files = {"model_dir": model_dir, "discriminator_dir": discriminator_dir, "recipe_file": recipe_file}
    for name, path in (files | {"log_file": log_file, "results_json": results_json}).items():
        if path is not None and not Path(path).exists():
            raise ValueError(f"`{name}` {str(path)!r} does not exist")

    with _staging(output_dir) as part:
        with remote_code_export():
            _save_codec(model_dir, part, half)
            if discriminator_dir is not None:
                _save_discriminator(Path(discriminator_dir), part, half)
        recipe = log = None
        if recipe_file is not None:
            recipe = _read_recipe(Path(recipe_file))
            (part / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        if log_file is not None:
            log = _read_log(Path(log_file))
            shutil.copyfile(log_file, part / "log.jsonl")
        # As anybody loads them, without a word on precision.
        model = load_complete(part, "output_dir")
        if discriminator_dir is not None:
            load_complete(part / "discriminator", "output_dir")
        if results_json is not None:
            name, table = read_results(results_json, model)
            weights = {name: digest for name, digest in _digests(part).items() if name.endswith(".safetensors")}
            card = codec_card(model, name, table, recipe, log, card_values, half, weights)
            card.save(part / "README.md")
    return output_dir


@contextmanager
def _staging(output_dir: Path) -> Iterator[Path]:
    """Yields a folder that gets its sums and becomes `output_dir` at the end, and is gone if anything fails."""
    part = output_dir.with_name(output_dir.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        write_sums(part)
        if output_dir.exists():
            shutil.rmtree(output_dir)
        part.rename(output_dir)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def stage_model(
    model_dir: str | Path,
    output_dir: str | Path,
    *,
    half: bool = True,
    card: ModelCard | None = None,
    overwrite: bool = False,
) -> Path:
    """
    As [`stage_codec`], for a model of any family of this package: weights, code, processor or feature extractor, and
    the encoders that lie in its subfolders.

    Args:
        model_dir (`str` or `Path`): Folder of a saved model.
        output_dir (`str` or `Path`): Where the folder goes; it appears only once it is whole.
        half (`bool`, *optional*, defaults to `True`): Store floating tensors in float16. They load as float32 all the same.
        card ([`ModelCard`], *optional*): See [`model_card`]. Without it the folder is for checks, not for publishing.
        overwrite (`bool`, *optional*, defaults to `False`): Replace `output_dir` if it is there.

    Returns:
        `Path`: `output_dir`.

    Raises:
        ValueError: `model_dir` is no complete model of ours, or `output_dir` exists.
    """
    model_dir, output_dir = Path(model_dir), Path(output_dir)
    if output_dir.exists() and not overwrite:
        raise ValueError(f"`output_dir` {str(output_dir)!r} exists; remove it or pass overwrite")
    with _staging(output_dir) as part:
        with remote_code_export():
            save_folder(model_dir, part, half)
        load_complete(part, "output_dir")
        if card is not None:
            card.save(part / "README.md")
    return output_dir


# ----- before an upload


def check_staged(folder: str | Path):
    """
    Everything that can be checked before an upload: the card, the sums, and that the folder loads with and without
    this package, in float32, to the same model bit for bit.

    Raises:
        ValueError: naming what is wrong.
    """
    folder = Path(folder)
    verify_sums(folder)
    if not (folder / "README.md").is_file():
        raise ValueError(f"`folder` {folder.name!r} has no README.md; stage it with results")
    if not ModelCard.load(folder / "README.md").data.eval_results:
        raise ValueError(f"`folder` {folder.name!r}: README.md has no measured results")
    unsafe = sorted(p.name for p in folder.rglob("*") if p.suffix in (".bin", ".ckpt", ".pkl", ".pt", ".pth"))
    if unsafe:
        raise ValueError(f"`folder` {folder.name!r} holds {unsafe[0]}; only safetensors are published")
    check_loads_the_same(folder)


# ----- publishing

ATTEMPTS = 3  # of the upload, on errors that pass
PAUSE = 2.0  # seconds before the second attempt, twice as long before the third


def publish(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """
    Uploads a staged folder in one commit, once every check has passed: until then, and if it fails, the repository
    keeps what it had; afterwards it holds the folder and nothing else (its history keeps the rest). What arrived is
    compared with what was sent.

    Args:
        folder (`str` or `Path`): What [`stage_codec`] made, with a card.
        repo_id (`str`): `org/name`, as in the card; made if it is not there.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.

    Returns:
        `str`: Address of the commit.

    Raises:
        ValueError: A check fails, see [`check_staged`], or `repo_id` is not the card's.
        ConnectionError: The Hub did not take it; nothing was published.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    if not folder.is_dir():
        raise ValueError(f"`folder` {str(folder)!r} is no folder")
    check_staged(folder)
    if f'"{repo_id}"' not in (folder / "README.md").read_text(encoding="utf-8"):
        raise ValueError(f"`repo_id` {repo_id!r} is not the one that README.md was written for; stage it again")
    return _upload(folder, repo_id, private, "Publish with its card", delete_patterns="*")


def push_run(run_dir: str | Path, repo_id: str, private: bool = True) -> str:
    """
    Uploads what a training run has so far (weights in float32, discriminators, recipe, log, code) in one commit, without a
    card, for oneself and one's machines; what else is in the repository stays. What is measured goes by [`publish`].

    Args:
        run_dir (`str` or `Path`): The trainer's `--output-dir`, stopped or finished.
        repo_id (`str`): `org/name`; made if it is not there.
        private (`bool`, *optional*, defaults to `True`): Whether a new repository is private.

    Returns:
        `str`: Address of the commit.

    Raises:
        ValueError: `run_dir` holds no model that loads.
        ConnectionError: The Hub did not take it; nothing was uploaded.
    """
    run_dir = Path(run_dir)
    _check_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as folder:
        files = {"discriminator_dir": "discriminator", "recipe_file": "recipe.yaml", "log_file": "log.jsonl"}
        files = {argument: run_dir / name for argument, name in files.items() if (run_dir / name).exists()}
        staged = stage_codec(run_dir / "model", Path(folder) / "staged", half=False, **files)
        return _upload(staged, repo_id, private, "A training run", delete_patterns=None)


def _check_repo_id(repo_id: str):
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"`repo_id` must look like org/name, got {repo_id!r}")


def _upload(folder: Path, repo_id: str, private: bool, message: str, delete_patterns: str | None) -> str:
    """One commit, compared with the folder afterwards; tried again on errors that pass."""
    api = HfApi()
    for attempt in range(ATTEMPTS):
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=message, delete_patterns=delete_patterns
            )
            _verify_upload(api, repo_id, commit.oid, folder)
            return str(commit.commit_url)
        except (HfHubHTTPError, HTTPError, RuntimeError) as caught:
            # what goes wrong with a large file comes wrapped
            error = caught.__cause__ if isinstance(caught, RuntimeError) else caught
            if not isinstance(error, HfHubHTTPError | HTTPError):
                raise
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            passing = status is None or status == 429 or status >= 500
            if not passing or attempt + 1 == ATTEMPTS:
                raise ConnectionError(f"{repo_id}: the Hub did not take the upload ({first_line(error)})") from error
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _verify_upload(api: HfApi, repo_id: str, revision: str, folder: Path):
    """Raises a ValueError where a file of the commit is not the one in the folder."""
    found = {entry.path: entry for entry in api.list_repo_tree(repo_id, revision=revision, recursive=True)}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        entry = found.get(name)
        if entry is not None and entry.lfs is not None:
            same = entry.lfs.sha256 == hashlib.sha256(content).hexdigest()
        else:
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            same = entry is not None and entry.blob_id == blob
        if not same:
            raise ValueError(f"{repo_id}: {name} did not arrive as it was sent; publish it again")


# ----- command line


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf_affectcodec.hub", description="Hub repositories of the codec.")
    commands = parser.add_subparsers(dest="command", required=True)
    push = commands.add_parser("push", help="upload a training run without a card, to a private repository")
    push.add_argument("run_dir", type=Path, help="the trainer's --output-dir")
    push.add_argument("repo_id", help="org/name")
    stage = commands.add_parser("stage", help="build a repository's folder")
    stage.add_argument("model_dir", type=Path)
    stage.add_argument("output_dir", type=Path)
    stage.add_argument("--full", action="store_true", help="store float32 (default: float16)")
    stage.add_argument("--discriminator", type=Path, help="folder of the discriminators")
    stage.add_argument("--recipe", type=Path, help="the run's recipe.yaml")
    stage.add_argument("--log", type=Path, help="the run's log.jsonl")
    stage.add_argument("--results", type=Path, help="table.json measured on the folder staged without a card")
    stage.add_argument("--overwrite", action="store_true", help="replace output_dir")
    card = stage.add_argument_group("card, with --results")
    card.add_argument("--repo-id", help="org/name")
    card.add_argument("--hardware", help="what it was trained on, in words")
    card.add_argument("--train-minutes", type=float, help="minutes of speech in the training split")
    card.add_argument("--num-voices", type=int, help="voices in it")
    card.add_argument("--languages", nargs="+", help="language codes")
    card.add_argument("--corpora", nargs="+", default=["open-prompts"], metavar="NAME", help="what it was trained on")
    card.add_argument("--license", default="cc-by-sa-3.0", help="of the weights (default: %(default)s)")
    card.add_argument("--course", default="", help="how the run went where its recipe alone would mislead")
    card.add_argument("--teachers", nargs="*", default=[], metavar="NAME=LICENCE", help="where the recipe has any")
    return parser


def _card_values(options: argparse.Namespace) -> CardValues | None:
    if options.results is None:
        return None
    names = ("repo_id", "hardware", "train_minutes", "num_voices", "languages")
    missing = ["--" + name.replace("_", "-") for name in names if getattr(options, name) is None]
    if missing:
        raise ValueError(f"the card needs {' '.join(missing)}")
    teachers = dict(text.partition("=")[::2] for text in options.teachers)
    unlicensed = [name for name, license in teachers.items() if not (name and license)]
    if unlicensed:
        raise ValueError(f"--teachers takes NAME=LICENCE, got {unlicensed[0]!r}")
    values = {name: getattr(options, name) for name in names[:-1]}
    return CardValues(
        **values,
        languages=tuple(options.languages),
        teachers=teachers,
        corpora=tuple(options.corpora),
        license=options.license,
        course=options.course,
    )


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "push":
            sys.stdout.write(push_run(options.run_dir, options.repo_id) + "\n")
            return 0
        folder = stage_codec(
            options.model_dir,
            options.output_dir,
            half=not options.full,
            discriminator_dir=options.discriminator,
            recipe_file=options.recipe,
            log_file=options.log,
            results_json=options.results,
            card_values=_card_values(options),
            overwrite=options.overwrite,
        )
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"hub: error: {' '.join(str(error).split())}\n")
        return 2
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    card = "with its card" if options.results is not None else "without a card: measure it, then add --results"
    sys.stdout.write(f"{folder}: {size / 1e6:.1f} MB, {card}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
