"""Pictures as files, and the command for layouts that exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import runtime.commands.plot
from runtime.errors import SceneError
from runtime.layout import write_layout
from runtime.pictures import plot_layout, write_plot
from tests.blocked import run_without
from tests.pictures.rooms import ROOM, TEXT, cloud, names

BEGINS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml", ".PNG": b"\x89PNG"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with scene.npy, scene.txt and truth.json."""
    found = cloud()
    assert found.colors is not None
    np.save(tmp_path / "scene.npy", np.hstack([found.points, np.rint(found.colors * 255)]))
    (tmp_path / "scene.txt").write_text(TEXT)
    write_layout(ROOM, tmp_path / "truth.json")
    return tmp_path


@pytest.fixture
def plot(files: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*options: object) -> tuple[int, str, str]:
        words = ["-p", files / "scene.npy", "-l", files / "scene.txt", *options]
        code = runtime.commands.plot.main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.mark.parametrize("ending", BEGINS)
def test_files_by_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scene{ending}"
    write_plot(plot_layout(ROOM, cloud()), path)
    assert path.read_bytes().startswith(BEGINS[ending])
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_the_same_scene_is_the_same_file(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        write_plot(plot_layout(ROOM, cloud(), ROOM), tmp_path / f"{name}{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_a_picture_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scene.png"
    path.write_text("old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SceneError, match=r"scene\.png: cannot be written \(No space left on device\)\. Name a picture"):
        write_plot(plot_layout(ROOM), path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["scene.png"]


def test_the_command_draws_a_layout(plot: Callable[..., tuple[int, str, str]], files: Path) -> None:
    code, out, err = plot("-t", files / "truth.json", "-o", files / "a.svg")
    assert (code, out, err) == (0, f"{files}/a.svg\n", "")
    assert (files / "a.svg").stat().st_size > 10_000


def test_the_command_needs_no_points(files: Path) -> None:
    assert runtime.commands.plot.main(["-l", str(files / "truth.json"), "-o", str(files / "a.png"), "-q"]) == 0
    assert (files / "a.png").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-o", "a.jpg"], "a.jpg: the ending is '.jpg', but .png, .pdf or .svg was expected. Rename the picture."),
        (["-o", "a"], "a: the ending is '', but .png"),
        (["-o", "no/a.png"], "no/a.png: cannot be written there. Name a file in a folder that exists"),
        (["-o", "a.png", "-t", "none.txt"], "none.txt: cannot be read as a layout (No such file or directory)."),
        (["-o", "a.png", "-t", "scene.npy"], "scene.npy: cannot be read as a layout ("),
        (["-o", "a.rrd", "-t", "scene.txt"], "--ground_truth is drawn in pictures only."),
        (
            ["-o", "a.png", "-t", "a.png"],
            "a.png: is the ground truth, which the output would replace. Name another output.",
        ),
        (["-o", "a.png", "--scale", "0"], "scale"),
    ],
)
def test_refusals(
    plot: Callable[..., tuple[int, str, str]],
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(files)
    before = names(files)
    code, out, err = plot(*options)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert names(files) == before


def test_a_recording_needs_the_points(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime.commands.plot.main(["-l", str(files / "scene.txt"), "-o", str(files / "a.rrd")]) == 2
    assert "a recording shows the points too. Give --point_cloud." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("library", "ending", "error", "sentence"),
    [
        ("matplotlib", "png", "ModuleNotFoundError", "not installed. Install it: pip install '.[plot]'"),
        ("matplotlib", "png", "ImportError", "is installed but cannot be loaded"),
        ("rerun", "rrd", "ModuleNotFoundError", "not installed. Install it: pip install '.[rerun]'"),
    ],
)
def test_a_missing_library_is_named(files: Path, library: str, ending: str, error: str, sentence: str) -> None:
    code = "import sys; from runtime.commands.plot import main; sys.exit(main())"
    options = ["-p", files / "scene.npy", "-l", files / "scene.txt", "-o", files / f"a.{ending}"]
    done = run_without((library,), code, *map(str, options), error=error)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
