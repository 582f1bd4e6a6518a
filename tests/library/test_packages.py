"""What the wheel takes along: a folder that pyproject.toml does not name is missing from it, and nobody sees it in a checkout."""

from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]


def test_every_folder_of_code_is_a_package_of_the_wheel():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    source = ROOT / "src"
    folders = {path.parent for path in (source / "hf_affectcodec").rglob("*.py") if "pretrained" not in path.parts}
    names = {".".join(folder.relative_to(source).parts) for folder in folders}
    elsewhere = settings["package-dir"].keys() - {"hf_affectcodec"}
    assert set(settings["packages"]) == names | elsewhere
    assert all((ROOT / settings["package-dir"][name]).is_dir() for name in elsewhere)
