r"""
Hub repositories: the folder that is uploaded, its card, its checks.

    python -m hf_affectcodec.hub stage RUN/model STAGED --discriminator RUN/discriminator \
        --recipe RUN/recipe.yaml --log RUN/log.jsonl
    python -m hf_affectcodec.benchmarks.codec_table --models affectcodec=STAGED --data test.parquet --out RESULTS ...
    python -m hf_affectcodec.hub stage RUN/model STAGED --overwrite ... --results RESULTS/table.json --repo-id ORG/NAME ...

The first call stages everything but the card, so that what is measured is what is published (weights rounded to float16
are other weights). The last one adds the card, and refuses results that were measured on other weights.
"""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
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
from transformers import AutoModel

from .modeling.configuration_affectcodec import AffectCodecConfig
from .modeling.configuration_affectcodec_discriminator import AffectCodecDiscriminatorConfig
from .modeling.feature_extraction_affectcodec import AffectCodecFeatureExtractor
from .modeling.modeling_affectcodec import AffectCodecModel
from .modeling.modeling_affectcodec_discriminator import AffectCodecDiscriminator


SUMS_FILE = "SHA256SUMS"
# Every Auto class that a stranger may use -> the class of ours, as `auto_map` spells it.
CODEC_AUTO_MAP = {
    "AutoConfig": "configuration_affectcodec.AffectCodecConfig",
    "AutoFeatureExtractor": "feature_extraction_affectcodec.AffectCodecFeatureExtractor",
    "AutoModel": "modeling_affectcodec.AffectCodecModel",
    "AutoModelForAudioTokenization": "modeling_affectcodec.AffectCodecModel",
}
REMOTE_CODE_CLASSES = {
    AffectCodecConfig: "AutoConfig",
    AffectCodecFeatureExtractor: "AutoFeatureExtractor",
    AffectCodecModel: "AutoModel",
    AffectCodecDiscriminatorConfig: "AutoConfig",
    AffectCodecDiscriminator: "AutoModel",
}
TASK = "audio-to-audio"


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
    course: str = ""
    dataset: str = "open-prompts"
    dataset_name: str = "Asterisk core prompts (en, es, fr, it, ru)"
    dataset_split: str = "test"

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo_id):
            raise ValueError(f"`repo_id` must look like org/name, got {self.repo_id!r}")
        for name in ("hardware", "languages", "dataset", "dataset_name", "dataset_split"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; the card prints no blanks")
        for name in ("train_minutes", "num_voices"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)!r}")


# ----- weights and code


def half_state_dict(model) -> dict[str, torch.Tensor]:
    """The state dict with floating tensors in float16, but for those that hold values which float16 cannot."""
    state_dict = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            half = tensor.half()
            tensor = half if torch.isfinite(half).all() else tensor
        state_dict[name] = tensor
    return state_dict


@contextmanager
def _remote_code_export() -> Iterator[None]:
    """Inside, `save_pretrained` also copies the code. Registering is for the process, so it is taken back."""
    for cls, auto_class in REMOTE_CODE_CLASSES.items():
        cls.register_for_auto_class(auto_class)
    try:
        yield
    finally:
        for cls in REMOTE_CODE_CLASSES:
            cls._auto_class = None


def _save(model, folder: Path, half: bool):
    if half:
        # The file holds float16; `config.dtype` stays that of the model, and is what it will be loaded in.
        model.save_pretrained(folder, state_dict=half_state_dict(model))
    else:
        model.save_pretrained(folder)


def _load(cls, folder, argument: str, **options):
    """In float32, complete and finite, or a ValueError that names the argument."""
    where = f"`{argument}` {str(folder)!r}"
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{where} must be a folder with config.json and model.safetensors")
    try:
        model, info = cls.from_pretrained(folder, output_loading_info=True, **options)
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{where} cannot be loaded: {' '.join(str(error).split())}") from error
    wrong = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
    if wrong:
        raise ValueError(f"{where} lacks weights or has others, {wrong[0]!r} for one")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{where} loads {name!r} as {tensor.dtype}, not as float32")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{where} holds NaN or infinite values in {name!r}")
    return model.eval()


def _save_codec(model_dir: Path, folder: Path, half: bool):
    model = _load(AffectCodecModel, model_dir, "model_dir", dtype=torch.float32)
    if not all(bool(layer.inited) for layer in model.quantizer.layers):
        raise ValueError(f"`model_dir` {str(model_dir)!r} holds codebooks that were never trained")
    if (model_dir / "preprocessor_config.json").is_file():
        extractor = AffectCodecFeatureExtractor.from_pretrained(model_dir)
    else:
        extractor = AffectCodecFeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=model.hop_length)
    for name in ("sampling_rate", "hop_length"):
        if getattr(extractor, name) != getattr(model.config, name):
            raise ValueError(f"`model_dir`: `{name}` of preprocessor_config.json is not the model's")
    model.config.auto_map = dict(CODEC_AUTO_MAP)
    _save(model, folder, half)
    extractor.save_pretrained(folder)


def _save_discriminator(discriminator_dir: Path, folder: Path, half: bool):
    discriminator = _load(AffectCodecDiscriminator, discriminator_dir, "discriminator_dir", dtype=torch.float32)
    _save(discriminator, folder / "discriminator", half)
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


def _eval_results(name: str, table: dict, values: CardValues) -> list[EvalResult]:
    from .benchmarks.codec_table import METRICS

    protocol = table["protocol"]
    return [
        EvalResult(
            task_type=TASK,
            task_name="Speech coding",
            dataset_type=values.dataset,
            dataset_name=values.dataset_name,
            dataset_split=values.dataset_split,
            dataset_args={"file": protocol["data"], "sha256": protocol["data_sha256"], "clips": table["n_clips"]},
            metric_type=metric,
            metric_name=METRICS[metric].label,
            metric_value=round(table["systems"][name]["metrics"][metric]["mean"], 4),
        )
        for metric in METRICS
    ]


def card_template_path(name: str) -> Path:
    """The Jinja2 template of a card, in the installed package or in a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "model_cards", here.parents[2] / "model_cards"):
        path = folder / f"{name}.md.jinja"
        if path.is_file():
            return path
    raise FileNotFoundError(f"no template model_cards/{name}.md.jinja in the package or the checkout")


def codec_card(
    model, name: str, table: dict, recipe: dict, log: dict, values: CardValues, half: bool, discriminator: bool
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
        discriminator (`bool`): Whether the discriminators go along.

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
    data = ModelCardData(
        language=list(values.languages),
        license="cc-by-sa-3.0",
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["audio", "speech", "neural-codec", "audio-tokenizer", "affectcodec", "arxiv:2605.11098"],
        metrics=list(METRICS),
        model_name=values.repo_id.split("/")[1],
        eval_results=_eval_results(name, table, values),
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(card_template_path("affectcodec").read_text(encoding="utf-8"))
    try:
        content = template.render(
            card_data=data.to_yaml(),
            config=config,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            half=half,
            discriminator=discriminator,
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

    part = output_dir.with_name(output_dir.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with _remote_code_export():
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
        model = _load(AutoModel, part, "output_dir")
        if discriminator_dir is not None:
            _load(AutoModel, part / "discriminator", "output_dir")
        if results_json is not None:
            name, table = read_results(results_json, model)
            card = codec_card(model, name, table, recipe, log, card_values, half, discriminator_dir is not None)
            card.save(part / "README.md")
        write_sums(part)
        if output_dir.exists():
            shutil.rmtree(output_dir)
        part.rename(output_dir)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return output_dir


# ----- loading in a clean process

PROBE = """
import hashlib, json, sys

source, package = sys.argv[1], sys.argv[2] == "package"


class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_affectcodec":
            raise ModuleNotFoundError("hf_affectcodec is kept out of this process")


if not package:
    sys.meta_path.insert(0, NoPackage())
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

if package:
    import hf_affectcodec
torch.set_num_threads(1)
options = {} if package else {"trust_remote_code": True}
model = AutoModelForAudioTokenization.from_pretrained(source, **options).eval()
assert type(AutoModel.from_pretrained(source, **options)).__name__ == type(model).__name__
extractor = AutoFeatureExtractor.from_pretrained(source, **options)
generator = torch.Generator().manual_seed(0)
waveform = 0.1 * torch.randn(model.config.sampling_rate, generator=generator)
inputs = extractor(waveform, sampling_rate=model.config.sampling_rate, return_tensors="pt")
with torch.inference_mode():
    codes = model.encode(**inputs).audio_codes
    values = model.decode(codes).audio_values
digest = lambda tensor: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
result = {
    "codes": digest(codes),
    "audio": digest(values),
    "dtypes": sorted({str(tensor.dtype) for tensor in model.parameters()}),
    "package": "hf_affectcodec" in sys.modules,
}
print("\\n" + json.dumps(result))
"""


def load_in_clean_process(source: str | Path, package: bool, environment: dict[str, str] | None = None) -> dict:
    """
    Loads a codec in a fresh interpreter, with this package or as `trust_remote_code` without it, and codes noise.

    Args:
        source (`str` or `Path`): Folder or Hub id.
        package (`bool`): Whether this package may be imported there.
        environment (`dict[str, str]`, *optional*): More environment variables. Without any, the Hub is not asked.

    Returns:
        `dict`: SHA-256 of `codes` and `audio`, `dtypes` of the parameters, and whether the `package` was imported.

    Raises:
        ValueError: It does not load; the message is the interpreter's last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A cache of its own: code or files that an earlier load left behind would hide what is missing.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {}), "HF_HOME": folder}
        for name in ("HF_MODULES_CACHE", "HF_HUB_CACHE", "PYTHONPATH"):
            environment.pop(name, None)
        source = str(source.resolve()) if isinstance(source, Path) else source
        command = [sys.executable, "-I", "-c", PROBE, source, "package" if package else "no-package"]
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{source!r} does not load {'with' if package else 'without'} hf_affectcodec: {reason}")
    return json.loads(process.stdout.splitlines()[-1])


def check_staged(folder: str | Path):
    """
    Everything that can be checked before an upload: the card, the sums, and that the folder loads with and without
    this package, in float32, to the same outputs bit for bit.

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
    without, with_package = (load_in_clean_process(folder, package) for package in (False, True))
    if without["package"] or not with_package["package"] or without["dtypes"] != ["torch.float32"]:
        raise ValueError(f"`folder` {folder.name!r} loads in another way than it should: {without}, {with_package}")
    for name in ("codes", "audio"):
        if without[name] != with_package[name]:
            raise ValueError(f"`folder` {folder.name!r}: {name} differ with and without hf_affectcodec")


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
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"`repo_id` must look like org/name, got {repo_id!r}")
    if not folder.is_dir():
        raise ValueError(f"`folder` {str(folder)!r} is no folder")
    check_staged(folder)
    if f'"{repo_id}"' not in (folder / "README.md").read_text(encoding="utf-8"):
        raise ValueError(f"`repo_id` {repo_id!r} is not the one that README.md was written for; stage it again")
    api = HfApi()
    for attempt in range(ATTEMPTS):
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message="Publish with its card", delete_patterns="*"
            )
            _verify_upload(api, repo_id, commit.oid, folder)
            return str(commit.commit_url)
        except (HfHubHTTPError, HTTPError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            passing = status is None or status == 429 or status >= 500
            if not passing or attempt + 1 == ATTEMPTS:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ConnectionError(f"{repo_id}: the Hub did not take the upload ({reason})") from error
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
    stage = parser.add_subparsers(dest="command", required=True).add_parser(
        "stage", help="build a repository's folder"
    )
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
    return CardValues(**values, languages=tuple(options.languages), teachers=teachers, course=options.course)


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
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
