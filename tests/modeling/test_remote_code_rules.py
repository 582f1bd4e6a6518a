"""
The files of modeling/ are copied into Hub repositories, flattened and rewritten by regular expressions. Forms that are
fine in a package break there, some only at the stranger's; these tests read the syntax tree for them.
"""

import ast
import re
import sys
from pathlib import Path

import pytest


FOLDER = Path(__file__).resolve().parents[2] / "modeling"
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
ALLOWED = {"huggingface_hub", "numpy", "torch", "torchaudio", "transformers"} | set(sys.stdlib_module_names)
# As transformers' dynamic_module_utils finds relative imports: in the text, so in docstrings too.
RELATIVE_IMPORT = re.compile(r"^\s*(?:from\s+\.(\S+)\s+import|import\s+\.(\S+)\s*$)", re.MULTILINE)
SAME_LEVEL = 1


def problems(source: str, siblings: set[str]) -> list[str]:
    """What of a module's text breaks as remote code."""
    tree = ast.parse(source)
    found = []
    imported = set()
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.Try) or (isinstance(block, ast.If) and "is_" in ast.dump(block.test))
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > SAME_LEVEL:
                found.append(f"line {node.lineno}: import from a parent package")
            elif node.module is None:
                found.append(f"line {node.lineno}: `from . import x` is not copied")
            elif "." in node.module:
                found.append(f"line {node.lineno}: import from a sub-package")
            elif node.module not in siblings:
                found.append(f"line {node.lineno}: no sibling {node.module}")
            else:
                imported.add(node.module)
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in guarded:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if name.partition(".")[0] not in ALLOWED:
                    found.append(f"line {node.lineno}: {name} is not installed at a stranger's")
        elif isinstance(node, ast.ClassDef) and "Tokenizer" in node.name:
            found.append(f"line {node.lineno}: class {node.name} would be taken for a tokenizer")
    for first, second in RELATIVE_IMPORT.findall(source):
        if (first or second) not in imported:
            found.append(f"the text `from .{first or second} import` outside of code")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_can_be_remote_code(path):
    assert "Tokenizer" not in path.stem
    assert problems(path.read_text(encoding="utf-8"), {module.stem for module in MODULES}) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_exports_what_it_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    exported = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]
    ]
    defined = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert all(set(names) <= defined for names in exported)
    if path.stem.split("_")[0] in ("configuration", "feature", "modeling", "processing"):
        assert len(exported) == 1, "the classes that Auto classes load are named in `__all__`"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_classes_carry_the_family(path):
    """The families share a folder, and a repository of several families shares a namespace of files."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    family = path.stem.split("_", 1)[1].replace("extraction_", "").split("_")[0]
    assert all(name.lower().startswith(family) for name in classes), (family, classes)


def test_no_isinstance_on_configurations():
    """From a folder, configuration and model may come from two copies of one module; `model_type` tells them apart."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                assert "Config" not in ast.dump(node.args[1]), f"{path.name} line {node.lineno}"


def test_folder_is_flat():
    assert not [path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"]


@pytest.mark.parametrize(
    "source, problem",
    [
        ("from .sub.pkg import A", "sub-package"),
        ("from ..shared import A", "parent package"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..shared import A", "parent package"),
        ("from . import sibling", "not copied"),
        ("from .missing import A", "no sibling missing"),
        ("from hf_affectcodec.audio import load_audio", "not installed"),
        ("import soundfile", "not installed"),
        ('"""\nfrom .nothing import x\n"""', "outside of code"),
        ("class OurTokenizerModel:\n    pass", "taken for a tokenizer"),
    ],
)
def test_each_trap_is_caught(source, problem):
    found = problems(source, {"sibling"})
    assert found and problem in found[0]


@pytest.mark.parametrize(
    "source",
    [
        "from .sibling import (\n    A,\n    B,\n)",
        "import torch.nn.functional as F\nfrom transformers.utils import ModelOutput\nimport math",
        "try:\n    import torchcodec\nexcept ImportError:\n    torchcodec = None",
        "if is_scipy_available():\n    import scipy",
    ],
)
def test_what_works_is_let_through(source):
    assert problems(source, {"sibling"}) == []
