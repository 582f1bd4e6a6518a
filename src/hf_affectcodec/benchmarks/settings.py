"""Settings of an evaluation: YAML files, one value changed from outside, dataclasses."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import yaml


CONFIGS = Path(__file__).with_name("configs")


def config_path(name: str | Path) -> Path:
    """
    Args:
        name (`str` or `Path`): A YAML file, or the name (without `.yaml`) of one that comes with the package.

    Raises:
        ValueError: There is neither.
    """
    shipped = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if str(name) in shipped:
        return CONFIGS / f"{name}.yaml"
    if not Path(name).is_file():
        raise ValueError(f"`config` must be a YAML file or one of {shipped}, got {str(name)!r}")
    return Path(name)


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def read_settings(path: str | Path, changes: list[str] = ()) -> dict:
    """
    Args:
        path (`str` or `Path`): A YAML mapping. With `base: other.yaml` (relative to itself) it starts from another.
        changes (`list[str]`, *optional*): `key=value`, dots for nested keys, values in YAML.

    Raises:
        ValueError: The file is no mapping, or a change has another form.
    """
    path = Path(path)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"`config`: {path.name} must be a YAML mapping")
    base = values.pop("base", None)
    if base is not None:
        values = _merge(read_settings(path.parent / base), values)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"`--set` takes key=value, got {change!r}")
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"`--set` {change!r}: {parent} is no mapping")
        place[last] = yaml.safe_load(text)
    return values


def build_settings(cls, values: dict, where: str):
    """
    A dataclass from a mapping.

    Raises:
        ValueError: A key is unknown, or a field without default is missing.
    """
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"`{where}`: unknown key {unknown[0]!r}; known keys are {sorted(known)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"`{where}`: {error}") from error


def call_backend(section: str, backends: dict[str, Callable], settings: dict, **fixed):
    """
    Calls the backend that a section of the settings names, with the rest of the section as arguments.

    Args:
        section (`str`): Name of the section, for messages.
        backends (`dict[str, Callable]`): By name.
        settings (`dict`): `backend` and the backend's own arguments.
        fixed: Further arguments, given to backends that take them.

    Raises:
        ValueError: No such backend, or it takes no such argument.
    """
    if not isinstance(settings, dict) or settings.get("backend") not in backends:
        raise ValueError(f"`{section}` must have a `backend` of {sorted(backends)}, got {settings!r}")
    backend = backends[settings["backend"]]
    parameters = inspect.signature(backend).parameters
    given = {key: value for key, value in settings.items() if key != "backend"}
    unknown = sorted(given.keys() - (parameters.keys() - fixed.keys()))
    if unknown:
        raise ValueError(f"`{section}`: {settings['backend']} takes no {unknown[0]!r}, only {sorted(parameters)}")
    wanting = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in given and name not in fixed
    ]
    if wanting:
        raise ValueError(f"`{section}`: {settings['backend']} needs `{wanting[0]}`")
    return backend(**given, **{key: value for key, value in fixed.items() if key in parameters})
