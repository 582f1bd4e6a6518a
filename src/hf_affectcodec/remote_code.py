"""Models saved together with their code, so that `trust_remote_code=True` loads them without this package."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import (
    FEATURE_EXTRACTOR_MAPPING,
    PROCESSOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.feature_extraction_utils import FeatureExtractionMixin

import hf_affectcodec


# The Auto classes that this package registers models in; the first that knows a model is its main one.
AUTO_MODELS = (
    "AutoModel",
    "AutoModelForAudioClassification",
    "AutoModelForAudioTokenization",
    "AutoModelForSequenceClassification",
    "AutoModelForTextToWaveform",
)
# What a folder may hold beside our own models: an encoder, its tokeniser. Nothing that unpickles.
GUEST_SUFFIXES = (".json", ".model", ".safetensors", ".txt")


def is_ours(cls: type) -> bool:
    """Whether a class is one of `modeling/`, and needs its code sent along."""
    return cls.__module__.startswith("hf_affectcodec.modeling.")


def model_classes(config_class: type[PreTrainedConfig]) -> dict[str, type[PreTrainedModel]]:
    """
    Each Auto class that loads a configuration's model, and the class that it gives.

    Raises:
        ValueError: There is none.
    """
    mappings = {name: getattr(transformers, name)._model_mapping for name in AUTO_MODELS}
    found = {name: mapping[config_class] for name, mapping in mappings.items() if config_class in mapping}
    if not found:
        raise ValueError(f"no Auto class loads models of type {config_class.model_type!r}")
    return found


def auto_map(config_class: type[PreTrainedConfig]) -> dict[str, str]:
    """`auto_map` of a configuration: every Auto class that a stranger may use, and the class of ours as it is spelt there."""
    classes = {"AutoConfig": config_class, **model_classes(config_class)}
    for name, mapping in (("AutoFeatureExtractor", FEATURE_EXTRACTOR_MAPPING), ("AutoProcessor", PROCESSOR_MAPPING)):
        if config_class in mapping:
            classes[name] = mapping[config_class]
    return {name: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for name, cls in sorted(classes.items())}


@contextmanager
def remote_code_export() -> Iterator[None]:
    """Inside, `save_pretrained` also copies the code. Registering is for the process, so it is taken back."""
    classes = [item for item in vars(hf_affectcodec).values() if isinstance(item, type) and is_ours(item)]
    for cls in classes:
        if issubclass(cls, PreTrainedConfig):
            cls.register_for_auto_class()
        elif issubclass(cls, PreTrainedModel):
            cls.register_for_auto_class(next(iter(model_classes(cls.config_class))))
        elif issubclass(cls, FeatureExtractionMixin | ProcessorMixin):
            cls.register_for_auto_class("AutoProcessor" if issubclass(cls, ProcessorMixin) else "AutoFeatureExtractor")
    try:
        yield
    finally:
        for cls in classes:
            cls._auto_class = None


def half_state_dict(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state dict with floating tensors in float16, but for those that hold values which float16 cannot."""
    state_dict = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            half = tensor.half()
            tensor = half if torch.isfinite(half).all() else tensor
        state_dict[name] = tensor
    return state_dict


def save_with_code(model: PreTrainedModel, folder: Path, half: bool):
    """The model and the code of its classes; inside of [`remote_code_export`]."""
    model.config.auto_map = auto_map(type(model.config))
    if half:
        # The file holds float16; `config.dtype` stays that of the model, and is what it will be loaded in.
        model.save_pretrained(folder, state_dict=half_state_dict(model))
    else:
        model.save_pretrained(folder)


def load_complete(folder: Path, argument: str, cls=None, **options) -> PreTrainedModel:
    """
    A model of ours in float32, complete and finite.

    Args:
        folder (`Path`): Where it is.
        argument (`str`): What errors call it.
        cls (class, *optional*): Its class; by default that of its configuration.
        options: More arguments of `from_pretrained`.

    Raises:
        ValueError: It cannot be loaded, is another's model, lacks weights, or they do not load as float32.
    """
    where = f"`{argument}` {str(folder)!r}"
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{where} must be a folder with config.json and model.safetensors")
    try:
        config = AutoConfig.from_pretrained(folder)
        if cls is None:
            if not is_ours(type(config)):
                raise ValueError(f"models of type {config.model_type!r} are not this package's")
            cls = next(iter(model_classes(type(config)).values()))
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


def save_folder(model_dir: Path, folder: Path, half: bool):
    """
    A model folder with code: the model, its processor or feature extractor, and what lies in its subfolders: models of
    ours again with code, others (a frozen encoder, a tokeniser) as they are.

    Raises:
        ValueError: A model cannot be loaded.
    """
    save_with_code(load_complete(model_dir, "model_dir", dtype=torch.float32), folder, half)
    if (model_dir / "processor_config.json").is_file():
        AutoProcessor.from_pretrained(model_dir).save_pretrained(folder)
    elif (model_dir / "preprocessor_config.json").is_file():
        AutoFeatureExtractor.from_pretrained(model_dir).save_pretrained(folder)
    for guest in sorted(path for path in model_dir.iterdir() if path.is_dir() and not path.name.startswith(".")):
        config_file = guest / "config.json"
        if config_file.is_file() and is_ours(type(AutoConfig.from_pretrained(guest))):
            save_folder(guest, folder / guest.name, half)
        elif not (folder / guest.name).exists():
            for path in sorted(path for path in guest.rglob("*") if path.suffix in GUEST_SUFFIXES):
                target = folder / path.relative_to(model_dir)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


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
import transformers

if package:
    import hf_affectcodec
torch.set_num_threads(1)
options = {} if package else {"trust_remote_code": True}


def digest(tensors):
    sha256 = hashlib.sha256()
    for tensor in tensors:
        sha256.update(tensor.contiguous().numpy().tobytes())
    return sha256.hexdigest()


config = transformers.AutoConfig.from_pretrained(source, **options)
names = [name for name in config.auto_map if name.startswith("AutoModel")]
models = [getattr(transformers, name).from_pretrained(source, **options).eval() for name in names]
model = models[0]
result = {
    "classes": {name: type(other).__name__ for name, other in zip(names, models)},
    "weights": digest(tensor for _, tensor in sorted(model.state_dict().items())),
    "dtypes": sorted({str(tensor.dtype) for tensor in model.parameters()}),
    "package": "hf_affectcodec" in sys.modules,
}
if config.model_type == "affectcodec":
    extractor = transformers.AutoFeatureExtractor.from_pretrained(source, **options)
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(config.sampling_rate, generator=generator)
    inputs = extractor(waveform, sampling_rate=config.sampling_rate, return_tensors="pt")
    with torch.inference_mode():
        codes = model.encode(**inputs).audio_codes
        values = model.decode(codes).audio_values
    result |= {"codes": digest([codes]), "audio": digest([values])}
for subfolder in sys.argv[3:]:
    other = transformers.AutoModel.from_pretrained(source, subfolder=subfolder, **options)
    result[subfolder] = [type(other).__name__, digest(tensor for _, tensor in sorted(other.state_dict().items()))]
print("\\n" + json.dumps(result))
"""


def load_in_clean_process(
    source: str | Path, package: bool, environment: dict[str, str] | None = None, subfolders: tuple[str, ...] = ()
) -> dict:
    """
    Loads a model in a fresh interpreter, with this package or as `trust_remote_code` without it; a codec also codes noise.

    Args:
        source (`str` or `Path`): Folder or Hub id.
        package (`bool`): Whether this package may be imported there.
        environment (`dict[str, str]`, *optional*): More environment variables. Without any, the Hub is not asked.
        subfolders (`tuple[str]`, *optional*): Those that hold another model, to be loaded with `AutoModel`.

    Returns:
        `dict`: The class that each Auto class gave (`classes`), SHA-256 of the `weights` and, of a codec, of `codes` and
        `audio`, `dtypes` of the parameters, whether the `package` was imported, and by each subfolder's name class and
        SHA-256 of the weights of its model.

    Raises:
        ValueError: It does not load; the message is the interpreter's last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A cache of its own: code or files that an earlier load left behind would hide what is missing.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {}), "HF_HOME": folder}
        for name in ("HF_MODULES_CACHE", "HF_HUB_CACHE", "PYTHONPATH"):
            environment.pop(name, None)
        source = str(source.resolve()) if isinstance(source, Path) else source
        command = [sys.executable, "-I", "-c", PROBE, source, "package" if package else "no-package", *subfolders]
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{source!r} does not load {'with' if package else 'without'} hf_affectcodec: {reason}")
    return json.loads(process.stdout.splitlines()[-1])


def check_loads_the_same(folder: Path):
    """
    Whether a folder loads with and without this package, in float32, to the same models bit for bit: weights, those of the
    discriminators too, and a codec's outputs. The code of others, whose inputs are not known here, must be this package's.

    Raises:
        ValueError: naming what is wrong.
    """
    subfolders = ("discriminator",) if (folder / "discriminator").is_dir() else ()
    without, with_package = (
        load_in_clean_process(folder, package, subfolders=subfolders) for package in (False, True)
    )
    if without.pop("package") or not with_package.pop("package") or without["dtypes"] != ["torch.float32"]:
        raise ValueError(f"`folder` {folder.name!r} loads in another way than it should: {without}, {with_package}")
    for name, value in without.items():
        if value != with_package[name]:
            raise ValueError(f"`folder` {folder.name!r}: {name} differ with and without hf_affectcodec")
    if "codes" in without:
        return
    ours = Path(sys.modules["hf_affectcodec.modeling"].__file__).parent
    for path in sorted(folder.rglob("*.py")):
        own = ours / path.name
        if not own.is_file() or _digest(own) != _digest(path):
            raise ValueError(f"`folder` {folder.name!r}: {path.name} is not this package's; stage it again")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
