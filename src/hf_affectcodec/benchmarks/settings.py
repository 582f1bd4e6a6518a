"""Which file an evaluation's settings are in, and the backends that they name."""

import inspect
from collections.abc import Callable
from pathlib import Path


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
