"""--plot, --ground_truth and --rerun of run_engine.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.layout import Layout, parse_layout, read_layout
from tests.blocked import run_without
from tests.cli.conftest import Command, Said, write_ply
from tests.scenes import room

TRUTH = "wall_0=Wall(10,-4,1,14,-4,1,2.5,0)\nbbox_0=Bbox(bed,11.1,-3.1,1.35,0,1.2,0.8,0.7)"
RUN_ENGINE = "import sys; from runtime.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Layout | None]]:
    """What was drawn: title, number of points, ground truth. The picture itself is the word "picture"."""
    seen: list[tuple[str, int, Layout | None]] = []

    def plot_layout(layout: Layout, cloud: list[object], truth: Layout | None, *, title: str) -> str:
        seen.append((title, len(cloud), truth))
        return "picture"

    monkeypatch.setattr("runtime.commands.pictures.plot_layout", plot_layout)
    monkeypatch.setattr("runtime.commands.pictures.write_plot", lambda figure, path: path.write_text(figure))
    return seen


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for seed, name in enumerate(("attic", "bath")):
        write_ply(folder / f"{name}.ply", room(seed, 200))
    return folder


@pytest.fixture
def run(run_engine: Command, bundle: Path, scenes: Path, tmp_path: Path) -> Command:
    """`run(*more)`: run_engine on the folder into tmp_path / "out", three tokens."""

    def call(*more: object) -> Said:
        options = ("-o", tmp_path / "out", "--threads", 1, "--max_new_tokens", 3, "--no_verify")
        return run_engine("-m", bundle, "-p", scenes, *options, *more)

    return call


def test_a_scene_and_its_picture(engine: Command, tmp_path: Path) -> None:
    said = engine("-o", tmp_path / "a.txt", "--plot", tmp_path / "a.png", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["pictures"] == [str(tmp_path / "a.png")]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_all_points_and_the_ground_truth(
    engine: Command, tmp_path: Path, drawn: list[tuple[str, int, Layout | None]]
) -> None:
    (tmp_path / "truth.txt").write_text(TRUTH)
    said = engine("-o", tmp_path / "a.txt", "--plot", tmp_path / "a.png", "--ground_truth", tmp_path / "truth.txt")
    assert said.code == 0
    assert drawn == [("scene", 300, parse_layout(TRUTH))]


def test_a_name_without_ending_is_a_folder(
    engine: Command, tmp_path: Path, drawn: list[tuple[str, int, Layout | None]]
) -> None:
    truths = tmp_path / "truths"
    truths.mkdir()
    (truths / "scene.txt").write_text(TRUTH)
    said = engine("-o", tmp_path / "a.txt", "--plot", tmp_path / "new" / "pictures", "--ground_truth", truths)
    assert said.code == 0, said.err
    assert (tmp_path / "new" / "pictures" / "scene.png").read_text() == "picture"
    assert drawn[0][2] == parse_layout(TRUTH)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ground_truth", "truth.txt"], "--ground_truth is drawn by --plot. Give --plot too, or leave it out."),
        (["--plot", "a.jpg"], "a.jpg: the ending is '.jpg', but .png, .pdf or .svg was expected. Rename the picture."),
        (["--plot", "-"], "--plot - is not a file. Name one."),
        (["--plot", "no/a.png"], "no/a.png: cannot be written there."),
        (["--rerun", "a.png"], "a.png: a recording for Rerun is an .rrd file; give it that ending."),
        (["--plot", "a.png", "--ground_truth", "none.txt"], "none.txt: no such file or folder."),
        (["--plot", "a.png", "--ground_truth", "scene.ply"], "scene.ply: "),
        (["--plot", "a.png", "--ground_truth", "empty"], "empty/scene.txt: no such file, but --ground_truth empty"),
        (["--plot", "a.png", "--ground_truth", "a.txt"], "a.txt: is the ground truth, which the output would replace."),
        (
            ["-o", "truths/scene.txt", "--plot", "a.png", "--ground_truth", "truths"],
            "truths/scene.txt: is the ground truth, which the output would replace.",
        ),
        (["--plot", "{bundle}/a.png"], "lies inside the bundle"),
        (["--plot", "taken"], "taken: cannot be made"),
    ],
)
def test_refused_before_any_work(
    engine: Command, bundle: Path, scene: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    monkeypatch.chdir(scene.parent)
    Path("taken").write_text("a file")
    Path("a.txt").write_text(TRUTH)
    Path("empty").mkdir()
    Path("truths").mkdir()
    Path("truths", "scene.txt").write_text(TRUTH)
    monkeypatch.setattr("runtime.pipeline.Pipeline.load", None)  # it would be a TypeError
    if "--rerun" in options:
        monkeypatch.setattr("runtime.commands.pictures.need", lambda library: None)
    said = engine("-o", "a.txt", *(word.replace("{bundle}", str(bundle)) for word in options))
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert Path("a.txt").read_text() == Path("truths", "scene.txt").read_text() == TRUTH


@pytest.mark.parametrize(("option", "library"), [("--plot", "matplotlib"), ("--rerun", "rerun")])
def test_a_missing_library_is_named_before_any_work(
    bundle: Path, scene: Path, tmp_path: Path, option: str, library: str
) -> None:
    target = tmp_path / ("a.png" if option == "--plot" else "a.rrd")
    words = ["-m", bundle, "-p", scene, "-o", tmp_path / "a.txt", option, target]
    done = run_without((library,), RUN_ENGINE, *map(str, words))
    assert done.returncode == 2
    assert f"which is not installed. Install it: pip install '.[{option[2:]}]'" in done.stderr
    assert not (tmp_path / "a.txt").exists()


def test_without_pictures_neither_library_is_needed(bundle: Path, scene: Path, tmp_path: Path) -> None:
    words = ["-m", bundle, "-p", scene, "-o", tmp_path / "a.txt", "--max_new_tokens", "2"]
    done = run_without(("matplotlib", "rerun", "shapely"), RUN_ENGINE, *map(str, words))
    assert done.returncode == 0, done.stderr


def test_a_folder_of_pictures(run: Command, tmp_path: Path, drawn: list[tuple[str, int, Layout | None]]) -> None:
    truths = tmp_path / "truths"
    truths.mkdir()
    (truths / "attic.txt").write_text(TRUTH)
    said = run("--plot", tmp_path / "pictures", "--ground_truth", truths)
    assert said.code == 0
    assert drawn == [("attic", 200, parse_layout(TRUTH)), ("bath", 200, None)]
    assert "bath.txt: no such file, but --ground_truth" in said.err
    assert "The picture shows the prediction alone." in said.err


@pytest.mark.parametrize("form", ["txt", "json"])
def test_a_restart_draws_what_is_missing_without_running_it(
    run: Command,
    tmp_path: Path,
    drawn: list[tuple[str, int, Layout | None]],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    assert run("--output_format", form).code == 0
    monkeypatch.setattr("runtime.pipeline.Pipeline.run", None)  # it would be a TypeError
    for _ in range(2):
        said = run("--output_format", form, "--plot", tmp_path / "pictures")
        assert said.code == 0, said.err
        assert "0 scenes done, 2 skipped, 0 failed." in said.out
    assert [title for title, _, _ in drawn] == ["attic", "bath"], "once each"


def test_a_picture_that_cannot_be_written_fails_its_scene(
    run: Command, tmp_path: Path, drawn: list[tuple[str, int, Layout | None]]
) -> None:
    (tmp_path / "pictures" / "attic.png").mkdir(parents=True)
    said = run("--plot", tmp_path / "pictures", "--json")
    assert said.code in (1, 2)
    assert "attic.png" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--plot", "a.png"], "a.png: is a file name, but --point_cloud is a folder; --plot must be one too."),
        (["--plot", "p", "--ground_truth", "t.txt"], "t.txt: is a file, but --point_cloud is a folder; --ground_truth"),
        (["--plot", "{bundle}"], "lies inside the bundle"),
    ],
)
def test_folders_want_folders(
    run: Command, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TRUTH)
    said = run(*(word.replace("{bundle}", str(bundle)) for word in options))
    assert said.code == 2
    assert sentence in said.err
    assert not (tmp_path / "out").exists()


def test_layouts_of_a_folder_do_not_replace_the_ground_truth(run: Command, tmp_path: Path) -> None:
    """Not even with --overwrite, which is about layouts that a run wrote."""
    truths = tmp_path / "truths"
    truths.mkdir()
    (truths / "attic.txt").write_text(TRUTH)
    pictures = ("--plot", tmp_path / "pictures", "--ground_truth", truths)
    said = run("-o", truths, *pictures, "--overwrite")
    assert said.code == 2
    assert f"{truths}: is the folder of the ground truth, which layouts would replace." in said.err
    assert [(path.name, path.read_text()) for path in truths.iterdir()] == [("attic.txt", TRUTH)]


def test_layouts_read_back_what_a_run_wrote(engine: Command, tmp_path: Path) -> None:
    for name in ("a.txt", "a.json"):
        assert engine("-o", tmp_path / name).code == 0
    assert str(read_layout(tmp_path / "a.txt")) == str(read_layout(tmp_path / "a.json"))
