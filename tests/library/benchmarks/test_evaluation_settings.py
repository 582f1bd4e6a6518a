import pytest

from hf_affectcodec.benchmarks import backends
from hf_affectcodec.benchmarks.evaluate_codec import CodecEvaluation
from hf_affectcodec.benchmarks.evaluate_tts import SpeechEvaluation
from hf_affectcodec.benchmarks.settings import CONFIGS, call_backend, config_path
from hf_affectcodec.benchmarks.systems import load_systems
from hf_affectcodec.settings import build_dataclass, read_yaml


def test_what_is_wrong_is_named(tmp_path):
    for call, message in (
        (lambda: config_path(tmp_path / "none.yaml"), r"`config` must be a YAML file or one of \["),
        (lambda: call_backend("words", {"a": lambda size: size}, {"backend": "b"}), "`words` must have a `backend`"),
        (lambda: call_backend("words", {"a": lambda size: size}, {"backend": "a"}), "`words`: a needs `size`"),
        (
            lambda: call_backend("words", {"a": lambda device: 0}, {"backend": "a", "device": 1}, device=2),
            "no 'device'",
        ),
        (lambda: load_systems({"x": {"path": "y"}}, []), "`models`: x has the unknown key 'path'"),
        (lambda: load_systems({"x": {"format": "onnx"}}, []), "`models`: `format` of x must be one of"),
        (lambda: load_systems({"x": {"format": "speechtokenizer"}}, []), "needs a `source`"),
        (lambda: load_systems({}, ["opus-6", "opus-6"]), "names of their own"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert call_backend(
        "words", {"a": lambda size, device: (size, device)}, {"backend": "a", "size": 3}, device=2
    ) == (3, 2)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations(path):
    assert config_path(path.stem) == path
    kind = SpeechEvaluation if path.stem.startswith("tts") else CodecEvaluation
    settings = build_dataclass(kind, read_yaml(path), "`config`")
    for section, known in (
        (settings.words, backends.WORDS),
        (settings.emotion, backends.EMOTION),
        (settings.recall, backends.RECALL),
        (settings.prosody, backends.PROSODY),
        (settings.speaker, backends.SPEAKER),
        *((entry, backends.RATINGS) for entry in settings.ratings),
    ):
        if section is None:
            continue
        backend = known[section["backend"]]
        taken = backend.__wrapped__ if hasattr(backend, "__wrapped__") else backend
        assert set(section) - {"backend"} <= set(taken.__code__.co_varnames[: taken.__code__.co_argcount])


def test_shipped_checkpoints_by_name():
    systems = load_systems({"affectcodec-mini": None}, ["opus-6", "mp3-8"])
    assert [system.name for system in systems] == ["original", "affectcodec-mini", "opus-6", "mp3-8"]
    with pytest.raises(FileNotFoundError, match="no checkpoint 'affectcodec-huge' is shipped"):
        load_systems({"affectcodec-huge": None}, [])
