"""The files that come inside the package: checkpoints and the demonstration clip."""

from pathlib import Path


_PRETRAINED = Path(__file__).parent / "pretrained"
_ASSETS = Path(__file__).parent / "assets"


def pretrained_path(name: str = "affectcodec-mini") -> Path:
    """
    The folder of a checkpoint that is shipped with the package, for `AutoModel.from_pretrained`.

    Args:
        name (`str`, *optional*, defaults to `"affectcodec-mini"`): Which one.

    Raises:
        `FileNotFoundError`: There is none of that name.
    """
    shipped = sorted(path.parent.name for path in _PRETRAINED.glob("*/config.json"))
    if name not in shipped:
        raise FileNotFoundError(
            f"no checkpoint {name!r} is shipped with hf_affectcodec (there is: {', '.join(shipped) or 'none'})"
        )
    return _PRETRAINED / name


def demo_clip_path() -> Path:
    """
    The FLAC file of the clip that `python -m hf_affectcodec.demo` rebuilds.

    Raises:
        `FileNotFoundError`: The package was installed without it.
    """
    clips = sorted(_ASSETS.glob("*.flac"))
    if not clips:
        raise FileNotFoundError("no demonstration clip (assets/*.flac) is shipped with hf_affectcodec")
    return clips[0]
