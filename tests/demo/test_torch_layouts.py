"""`python -m demo.torch_layouts` from the outside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import demo.torch_layouts
from runtime.layout import Layout, read_layout, write_layout
from runtime.pipeline import Pipeline
from runtime.scene import Request
from tests.cli.conftest import write_ply
from tests.exported import Export, Exported
from tests.scenes import room


@pytest.fixture
def case(exported: Export) -> Exported:
    return exported("qwen")


@pytest.fixture
def call(case: Exported, tmp_path: Path) -> Callable[..., int]:
    (tmp_path / "rooms").mkdir()
    write_ply(tmp_path / "rooms" / "7.ply", room(1, 300))

    def run(*more: str) -> int:
        paths = {"--bundle": case.bundle.folder, "--model": case.checkpoint.folder, "--rooms": tmp_path / "rooms"}
        words = [str(word) for pair in paths.items() for word in pair]
        return demo.torch_layouts.main([*words, "--output", str(tmp_path / "layouts"), "--quiet", *more])

    return run


def test_layouts_are_those_of_onnx_runtime_and_stay(
    call: Callable[..., int],
    case: Exported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: list[Layout] = []
    written = write_layout

    def write(layout: Layout, path: Path) -> None:  # noise is no layout: its text is in the issues, not in the file
        said.append(layout)
        written(layout, path)

    monkeypatch.setattr(demo.torch_layouts, "write_layout", write)
    assert call("--max_new_tokens", "12") == 0
    file = tmp_path / "layouts" / "7.txt"
    assert f"{file}: empty, as none of the " in capsys.readouterr().err
    with Pipeline.load(case.bundle.folder, backend="onnxruntime", threads=1) as pipeline:
        want = pipeline(tmp_path / "rooms" / "7.ply", Request(max_new_tokens=12)).layout
    assert said == [want] and want.issues and read_layout(file).issues == ()
    file.write_text("mine")
    assert call("--max_new_tokens", "12") == 0
    assert capsys.readouterr().err == ""
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--threads", "0"], "--threads is 0, but 1 to "),
        (["--threads", "-1"], "--threads is -1, but 1 to "),
        (["--threads", "99999999999999999999"], "--threads is 99999999999999999999, but 1 to "),
        (["--max_new_tokens", "0"], "--max_new_tokens is 0, but at least 1 is needed."),
        (["--max_new_tokens", "-3"], "--max_new_tokens is -3, but at least 1 is needed."),
        (["--rooms", "nowhere"], "nowhere: holds no <room>.ply."),
        (["--bundle", "nowhere"], "nowhere: no such bundle."),
        (["--model", "./nowhere"], "nowhere: no such directory"),
    ],
)
def test_refusals(
    call: Callable[..., int], tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
    assert not (tmp_path / "layouts").exists()


def test_another_checkpoint_than_the_bundles(
    call: Callable[..., int],
    tiny_checkpoint: Callable[..., Path],
    case: Exported,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tiny_checkpoint("llama")
    assert call("--model", str(other)) == 2
    err = capsys.readouterr().err
    assert f"{case.bundle.folder}: family of its language_model is qwen, but that of {other} is llama. Give the" in err
    broken = Path(shutil.copytree(case.checkpoint.folder, tmp_path / "broken"))
    text = (broken / "config.json").read_text()
    assert '"num_hidden_layers": 2' in text
    (broken / "config.json").write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    assert call("--model", str(broken)) == 2
    assert f"{broken}: the weights do not fit config.json" in capsys.readouterr().err


def test_outputs_that_cannot_be(call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "layouts" / "7.txt").mkdir(parents=True)
    assert call("--max_new_tokens", "2") == 2, "a folder of that name is no layout"
    assert f"{tmp_path / 'layouts' / '7.txt'}: " in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert call("--output", str(tmp_path / "file")) == 2
    assert f"{tmp_path / 'file'}: cannot be made" in capsys.readouterr().err
