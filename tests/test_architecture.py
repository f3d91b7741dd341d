"""Who may know whom: checked by import-linter, and by importing with the heavy packages made unimportable."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "onnx", "safetensors", "huggingface_hub")
BLOCK = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""

IMPORT_ALL = """
import importlib
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # a GPU's libraries may be missing, others not
        assert error.name.split(".")[0] in ("tensorrt", "cuda", "rerun"), error
assert not sys.modules.keys() & {heavy!r}
"""


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def run_blocked(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("package", ["runtime", "plugins"])
def test_every_module_imports_without_the_heavy_packages(package: str) -> None:
    result = run_blocked(IMPORT_ALL.format(names=modules(package), heavy=set(HEAVY)))
    assert result.returncode == 0, result.stderr


def test_the_block_really_blocks() -> None:
    assert "is blocked" in run_blocked("import torch").stderr


@pytest.mark.parametrize("door", ["export_model.py", "run_engine.py"])
def test_help_needs_nothing_heavy(door: str) -> None:
    code = f"import runpy; sys.argv = [{door!r}, '--help']; runpy.run_path({door!r}, run_name='__main__')"
    result = run_blocked(code)
    assert result.returncode == 0, result.stderr
    assert "examples:" in result.stdout


def imported(file: Path) -> set[str]:
    """Every package a file imports, at any depth: inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize(
    ("library", "place"),
    [
        ("plyfile", {"runtime/points/ply_header.py"}),
        ("onnxruntime", {"runtime/engines/ort.py", "runtime/engines/ort_cuda.py"}),
        ("tokenizers", {"runtime/prompt/tokenizer.py", "export/making/tokenizer.py"}),
        ("shapely", {"runtime/evaluation/polygons.py"}),
        ("matplotlib", {"runtime/pictures/figure.py"}),
        ("rerun", {"runtime/pictures/viewer.py"}),
        ("safetensors", {"export/checkpoint/tensor_files.py", "export/making/checkpoint.py"}),
    ],
)
def test_a_library_is_imported_in_its_place(library: str, place: set[str]) -> None:
    files = [file for package in ("runtime", "plugins", "export") for file in (ROOT / package).rglob("*.py")]
    users = {
        str(file.relative_to(ROOT)) for file in files if any(name.split(".")[0] == library for name in imported(file))
    }
    assert users == place


def test_layers_by_import_linter() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout
