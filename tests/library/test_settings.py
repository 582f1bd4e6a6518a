from dataclasses import dataclass, field

import pytest

from hf_affectcodec.settings import build_dataclass, read_yaml


@dataclass
class Settings:
    name: str
    rate: float = 0.1
    steps: int | None = None
    fast: bool = False
    sizes: dict = field(default_factory=dict)
    source: str | list[str] | None = None


def test_a_file_starts_from_another(tmp_path):
    (tmp_path / "base.yaml").write_text("name: a\nsizes: {x: 1, y: 2}\n")
    (tmp_path / "child.yaml").write_text("base: base.yaml\nsizes: {y: 3, z: [4]}\n")
    assert read_yaml(tmp_path / "child.yaml") == {"name": "a", "sizes": {"x": 1, "y": 3, "z": [4]}}
    changed = read_yaml(tmp_path / "child.yaml", ["sizes.x=null", "name=b", "new.key=true"])
    assert changed == {"name": "b", "sizes": {"x": None, "y": 3, "z": [4]}, "new": {"key": True}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("2E5", 2e5), ("-3e+2", -300.0), ("1.e-3", 1e-3), ("1.5e3", 1500.0), ("7", 7), ("0x1f", 31)]
    + [("1e5x", "1e5x"), ("e5", "e5"), ("3e", "3e"), ("1-4", "1-4"), ("'1e-4'", "1e-4")],
)
def test_numbers_with_an_exponent(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"rate: {text}\n")
    for found in (read_yaml(tmp_path / "a.yaml"), read_yaml(tmp_path / "a.yaml", [f"rate={text}"])):
        assert found == {"rate": value} and type(found["rate"]) is type(value)


def test_values_of_a_dataclass():
    assert build_dataclass(Settings, {"name": "a"}, "here") == Settings("a")
    # A whole number is a number; what is no plain scalar is not looked at.
    assert build_dataclass(Settings, {"name": "a", "rate": 1, "source": ["x"]}, "here").rate == 1
    assert build_dataclass(Settings, {"name": "a", "steps": None}, "here").steps is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": 1}, "here: unknown key 'nam'; known keys are .'fast'"),
        ({}, "here: .* 'name'"),
        ([1], "here: must be a mapping, got .1."),
        ({"name": "a", "rate": "fast"}, "here: `rate` must be float, got 'fast'"),
        ({"name": "a", "rate": True}, "here: `rate` must be float, got True"),
        ({"name": "a", "rate": None}, "here: `rate` must be float, got None"),
        ({"name": "a", "steps": 1.5}, "here: `steps` must be int or null, got 1.5"),
        ({"name": "a", "fast": 1}, "here: `fast` must be bool, got 1"),
        ({"name": 3}, "here: `name` must be str, got 3"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(ValueError, match=message) as raised:
        build_dataclass(Settings, values, "here")
    assert "\n" not in str(raised.value)


def test_a_wrong_file_is_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "good.yaml").write_text("name: a\n")
    for path, changes, message in (
        ("list.yaml", [], "list.yaml: must be a YAML mapping"),
        ("good.yaml", ["name"], "`--set` takes key=value"),
        ("good.yaml", ["name.x=1"], "name is no mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            read_yaml(tmp_path / path, changes)
