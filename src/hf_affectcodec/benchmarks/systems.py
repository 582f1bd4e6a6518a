"""Codecs under test from settings."""

from collections.abc import Mapping, Sequence

from hf_affectcodec.shipped import pretrained_path

from .codecs import AudioTokenizationCodec, Codec, Original, PyAVCodec, load_speechtokenizer


KEYS = ("source", "revision", "encode", "format")
FORMATS = ("transformers", "speechtokenizer")


def load_systems(
    models: Mapping[str, "str | dict | None"], baselines: Sequence[str], device: str = "cpu"
) -> list[Codec]:
    """
    Args:
        models (mapping): Name in the table to a folder or Hub id; to `None` for the checkpoint that comes with the
            package under that name; or to a mapping with `source` and, if wanted, `revision`, `encode` (arguments of the
            model's `encode`, such as `{bandwidth: 6.0}`) and `format` (`speechtokenizer` for the authors' own layout).
        baselines (sequence of `str`): `opus-6`, `mp3-8`, `aac-12`, ...
        device (`str`, *optional*, defaults to `"cpu"`): Where models run.

    Returns:
        `list[Codec]`: The originals first, then the others in the order given.

    Raises:
        ValueError: Two systems have one name, or an entry is malformed.
    """
    codecs: list[Codec] = [Original()]
    for name, entry in models.items():
        entry = dict(entry) if isinstance(entry, Mapping) else {"source": entry}
        unknown = sorted(entry.keys() - set(KEYS))
        if unknown:
            raise ValueError(f"`models`: {name} has the unknown key {unknown[0]!r}; known are {list(KEYS)}")
        source, revision = entry.get("source"), entry.get("revision", "main")
        kind = entry.get("format", "transformers")
        if kind not in FORMATS:
            raise ValueError(f"`models`: `format` of {name} must be one of {list(FORMATS)}, got {kind!r}")
        if kind == "speechtokenizer":
            if source is None or "encode" in entry:
                raise ValueError(
                    f"`models`: {name} in the format speechtokenizer needs a `source` and takes no `encode`"
                )
            codecs.append(load_speechtokenizer(source, name, device, revision))
            continue
        source = str(pretrained_path(name) if source is None else source)
        codecs.append(AudioTokenizationCodec.from_pretrained(source, name, device, entry.get("encode"), revision))
    codecs += [PyAVCodec.from_name(name) for name in baselines]
    names = [codec.name for codec in codecs]
    if len(set(names)) < len(names):
        raise ValueError(f"`models` and `baselines` must have names of their own, got {names}")
    return codecs
