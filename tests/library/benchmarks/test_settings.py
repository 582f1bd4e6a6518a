from dataclasses import dataclass, field

import pytest

from hf_affectcodec.benchmarks import backends
from hf_affectcodec.benchmarks.evaluate_codec import CodecEvaluation
from hf_affectcodec.benchmarks.evaluate_tts import SpeechEvaluation
from hf_affectcodec.benchmarks.settings import CONFIGS, build_settings, call_backend, config_path, read_settings
from hf_affectcodec.benchmarks.systems import load_systems


@dataclass
class Settings:
    name: str
    sizes: dict = field(default_factory=dict)


def test_a_file_starts_from_another(tmp_path):
    (tmp_path / "base.yaml").write_text("name: a\nsizes: {x: 1, y: 2}\n")
    (tmp_path / "child.yaml").write_text("base: base.yaml\nsizes: {y: 3, z: [4]}\n")
    assert read_settings(tmp_path / "child.yaml") == {"name": "a", "sizes": {"x": 1, "y": 3, "z": [4]}}
    changed = read_settings(tmp_path / "child.yaml", ["sizes.x=null", "name=b", "new.key=1e-3"])
    assert changed == {"name": "b", "sizes": {"x": None, "y": 3, "z": [4]}, "new": {"key": "1e-3"}}
    assert build_settings(Settings, {"name": "a"}, "config") == Settings("a", {})


def test_what_is_wrong_is_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "good.yaml").write_text("name: a\n")
    for call, message in (
        (lambda: config_path(tmp_path / "none.yaml"), r"`config` must be a YAML file or one of \["),
        (lambda: read_settings(tmp_path / "list.yaml"), "`config`: list.yaml must be a YAML mapping"),
        (lambda: read_settings(tmp_path / "good.yaml", ["name"]), "`--set` takes key=value"),
        (lambda: read_settings(tmp_path / "good.yaml", ["name.x=1"]), "name is no mapping"),
        (lambda: build_settings(Settings, {"nam": 1}, "config"), "`config`: unknown key 'nam'"),
        (lambda: build_settings(Settings, {}, "config"), "`config`: .* 'name'"),
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
    settings = build_settings(kind, read_settings(path), "config")
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
