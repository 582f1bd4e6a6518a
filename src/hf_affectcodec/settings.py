"""Settings: YAML files, single values changed from outside, dataclasses. Recipes and evaluations are read by these."""

import re
import types
import typing
from dataclasses import fields
from pathlib import Path

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but for numbers: 1e-4 is one, as in YAML 1.2 and everywhere else."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _load(text: str):
    return yaml.load(text, _Loader)


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def read_yaml(path: str | Path, changes: list[str] = ()) -> dict:
    """
    Args:
        path (`str` or `Path`): A YAML mapping. With `base: other.yaml` (relative to itself) it starts from another.
        changes (`list[str]`, *optional*): `key=value`, dots for nested keys, values in YAML: `["model.hidden_size=64"]`.

    Raises:
        ValueError: The file is no mapping, or a change has another form.
    """
    path = Path(path)
    values = _load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: must be a YAML mapping")
    base = values.pop("base", None)
    if base is not None:
        values = _merge(read_yaml(path.parent / base), values)
    for change in changes:
        set_value(values, change)
    return values


def set_value(values: dict, change: str):
    """Changes one value in place, as `read_yaml` describes."""
    key, equals, text = change.partition("=")
    if not equals:
        raise ValueError(f"`--set` takes key=value, got {change!r}")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f"`--set` {change!r}: {parent} is no mapping")
    values[last] = _load(text)


def _is_scalar_of(value, kinds: tuple) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _check_scalars(cls, values: dict, where: str):
    # Only what a slip of the pen changes: a number, a switch or a text in place of another of these.
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        hint = hints[name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if not all(kind in (int, float, bool, str, type(None)) for kind in kinds):
            continue
        if not _is_scalar_of(value, kinds):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{where}: `{name}` must be {wanted}, got {value!r}")


def build_dataclass(cls, values: dict, where: str):
    """
    A dataclass from a mapping.

    Args:
        cls (`type`): The dataclass. Fields that are plain numbers, switches or texts are checked against their type.
        values (`dict`): By field name.
        where (`str`): What the mapping is, for messages.

    Raises:
        ValueError: A key is unknown, a field without default is missing, or a plain value has another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must be a mapping, got {values!r}")
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known keys are {sorted(known)}")
    _check_scalars(cls, values, where)
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
