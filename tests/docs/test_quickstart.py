"""The notebook's cells, run in their order as a kernel runs them: the value of a last expression is what it shows."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.layout import read_layout
from tests.cli.conftest import write_ply
from tests.exported import Export
from tests.scenes import room

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell in `names`, and give the value of its last line where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore[attr-defined]


@pytest.fixture
def names(exported: Export, tmp_path: Path) -> dict[str, Any]:
    """What the first cell would name, for a tiny random bundle and a small scene."""
    write_ply(tmp_path / "scene.ply", room(1, 300))
    (tmp_path / "truth.txt").write_text("wall_0=Wall(0,0,0,4,0,0,2.5,0)\nbbox_0=Bbox(bed,1.1,0.9,0.35,0,1.2,0.8,0.7)")
    bundle = exported("qwen", "3D_RoPE", "3D_only").bundle.folder
    return {"ROOT": tmp_path, "BUNDLE": bundle, "SCENE": tmp_path / "scene.ply", "TRUTH": tmp_path / "truth.txt"}


def test_the_cells_run_in_their_order(
    names: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = list(CODE)
    assert cells[0] == "settings"
    shown = {cell: run_cell(CODE[cell], names) for cell in cells[1:]}
    out = capsys.readouterr().out
    for words in ("onnxruntime", "0 walls, 0 doors", " generated tokens, ended by ", "F1 @ 0.25", "bed "):
        assert words in out
    assert names["array"].shape == (300, 6)
    assert len(shown["picture"].axes) == 2
    assert len(shown["beside"].axes) == 4
    assert read_layout(tmp_path / "out" / "quickstart.json") == names["layout"]
    assert (tmp_path / "out" / "quickstart.png").read_bytes().startswith(b"\x89PNG")


def test_the_settings_lie_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    root = NOTEBOOK.parents[1]
    for folder in (root, NOTEBOOK.parent):
        monkeypatch.chdir(folder)
        names: dict[str, Any] = {}
        run_cell(CODE["settings"], names)
        assert names["ROOT"] == root
        assert names["SCENE"].exists()
        assert read_layout(names["TRUTH"]).boxes


def test_it_is_a_notebook() -> None:
    facts = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (facts["nbformat"], facts["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in facts["cells"]]
    assert len(ids) == len(set(ids))
    for cell in facts["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        assert cell.keys() == (wanted | {"outputs", "execution_count"} if cell["cell_type"] == "code" else wanted)
