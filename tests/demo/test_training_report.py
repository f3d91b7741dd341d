"""Runs side by side: made-up folders in the format of demo/train.py to one JSON, a table and a picture."""

from __future__ import annotations

import io
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb

from demo.training import trainer
from demo.training.curves import LOOKS, draw_curves, points_of
from demo.training.report import CURVES, RESULT, main, read_run, table
from runtime.pictures.figure import encoded

SCORES = {"scenes": 200, "wall": [0.94, 0.938], "door": [0.8, 0.4], "window": [None, None], "box": [0.71, 0.3]}


def line(step: int, loss: float) -> dict[str, Any]:
    both = {"loss": loss + 1, "cross_entropy": loss, "hints": 1.0}
    return {"step": step, "seconds": step / 10, **both, "validation": both}


def write_run(folder: Path, mode: str, low: float, scores: Any = SCORES) -> Path:
    folder.mkdir(parents=True)
    curve = [line(step, round(low + 6 * math.exp(-step / 300), 4)) for step in (1, *range(200, 2001, 200))]
    (folder / CURVES).write_text("".join(json.dumps(one) + "\n" for one in curve))
    facts = {"settings": {"mode": mode, "steps": 2100}, "gpus": 1, "steps": 2100, "seconds": 210.0, "done": True,
             "validation": low, "scores": scores}  # fmt: skip
    (folder / RESULT).write_text(json.dumps(facts, indent=1))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / f"mode-{mode}", mode, low)
        for mode, low in (("none", 0.5), ("3D_only", 0.3), ("3D_with_1D", 0.32))
    ]


def report(*arguments: Path | str) -> int:
    return main([str(argument) for argument in arguments])


def test_runs_become_one_file_a_table_and_a_picture(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, plot = tmp_path / "modes.json", tmp_path / "modes.png"
    assert report(*runs, "--output", output, "--plot", plot, "--note", "one H100") == 0
    facts = json.loads(output.read_text())
    assert (facts["benchmark"], facts["note"], list(facts["runs"])) == (
        "demo.train", "one H100", ["mode-none", "mode-3D_only", "mode-3D_with_1D"],
    )  # fmt: skip
    run = facts["runs"]["mode-3D_only"]
    assert run["settings"]["mode"] == "3D_only" and run["scores"] == SCORES
    assert [one["step"] for one in run["curves"]] == [1, *range(200, 2001, 200)]
    rows = {tuple(row.split("  ")[0:1]): row.split() for row in capsys.readouterr().out.splitlines()}
    assert rows[("cross entropy",)][-3:] == ["0.500", "0.300", "0.320"]
    assert rows[("windows, F1",)][-3:] == ["--"] * 3 and rows[("walls, F1",)][-4:] == ["0.50", *["0.938"] * 3]
    assert rows[("steps",)][-1] == "2,100" and rows[("minutes",)][-1] == "3.5"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_names_are_the_trainers() -> None:
    assert trainer.CURVES == CURVES


def test_a_run_that_went_on_from_an_earlier_state(runs: list[Path]) -> None:
    with (runs[0] / CURVES).open("a") as file:
        file.write("".join(json.dumps(line(step, 0.1)) + "\n" for step in (1800, 2000)))
    curves = read_run(runs[0])["curves"]
    assert [one["step"] for one in curves] == [1, *range(200, 2001, 200)]
    assert [one["validation"]["cross_entropy"] for one in curves[-2:]] == [0.1, 0.1]


def test_curves_end_where_the_run_does(runs: list[Path]) -> None:
    steps, losses = points_of(read_run(runs[1]))
    assert (steps[-1], losses[-1]) == (2100, 0.3) and len(steps) == 12


def test_the_picture_shows_each_run_apart_in_grey(runs: list[Path]) -> None:
    read = {folder.name: read_run(folder) for folder in runs}
    figure = draw_curves(read, table(read))
    lines = figure.axes[0].get_lines()
    assert [one.get_label() for one in lines] == ["mode-none: 0.500", "mode-3D_only: 0.300", "mode-3D_with_1D: 0.320"]
    assert len({one.get_marker() for one in lines}) == len({str(one._unscaled_dash_pattern) for one in lines}) == 3
    greys = [float(np.dot(to_rgb(color), (0.299, 0.587, 0.114))) for color, *_ in LOOKS]
    assert min(b - a for a, b in pairwise(greys)) > 0.08
    assert any("walls, F1" in text.get_text() for text in figure.texts)
    pixels = image.imread(io.BytesIO(encoded(figure, "png")))
    edge = np.concatenate([pixels[:4].ravel(), pixels[-4:].ravel(), pixels[:, :4].ravel(), pixels[:, -4:].ravel()])
    assert (edge == 1).all() and (pixels[..., :3] < 0.5).any()  # nothing runs out of the picture


def test_without_shapely_scores_are_left_out(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", "none", 0.5, "needs the package shapely"))
    assert table({"run": run}).splitlines()[-1].split()[-1] == "--"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (RESULT, None, "no such file, so the run has not ended"),
        (CURVES, None, "no such file, so the run has not ended"),
        (RESULT, "[1]", "is no JSON object (found list)"),
        (RESULT, '{"settings": {}}', "'steps' is missing"),
        (CURVES, '{"step": 1, "validation": {"cross_entropy": 1}}\n{"st', "line 2: is no JSON object"),
        (
            CURVES,
            '{"step": 1, "validation": 0.5}',
            "line 1: has no finite 'step' or validation 'cross_entropy'",
        ),
    ],
)
def test_what_is_no_run(
    runs: list[Path], tmp_path: Path, name: str, text: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[1] / name).unlink() if text is None else (runs[1] / name).write_text(text)
    assert report(*runs, "--output", tmp_path / "modes.json") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "modes.json").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("steps", "seconds", "validation") for value in ("x", None, True, math.nan, 10**400)),
        ("settings", [1]),
        ("scores", None),
        *(("scores", SCORES | {"wall": value}) for value in (0.9, [0.9], ["a", "b"], [math.inf, 0])),
    ],
)
def test_a_result_that_cannot_be_shown(
    runs: list[Path], tmp_path: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs[1] / RESULT
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert report(*runs, "--output", tmp_path / "modes.json", "--plot", tmp_path / "modes.png") == 2
    out, err = capsys.readouterr()
    assert f"{path}: {key!r} is " in err and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "modes.json").exists() and not (tmp_path / "modes.png").exists()


@pytest.mark.parametrize("key", ["step", "cross_entropy"])
@pytest.mark.parametrize("value", ["x", None, True, [1], math.nan, 10**400])
def test_a_curve_that_cannot_be_drawn(
    runs: list[Path], tmp_path: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"step": 1, "validation": {"cross_entropy": 0.5}}
    (odd if key == "step" else odd["validation"])[key] = value  # type: ignore[index]
    (runs[1] / CURVES).write_text(json.dumps(odd))
    assert report(*runs, "--output", tmp_path / "modes.json") == 2
    assert f"{runs[1] / CURVES}, line 1: has no finite 'step' or validation" in capsys.readouterr().err
    assert not (tmp_path / "modes.json").exists()


def test_files_that_are_no_text_or_nested_too_deeply(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[0] / CURVES).write_bytes(b"\xff\xfe\x00")
    (runs[1] / RESULT).write_text("[" * 100_000)
    for run, words in (
        (runs[0], f"{runs[0] / CURVES}: is no text"),
        (runs[1], f"{runs[1] / RESULT}: is no JSON object"),
    ):
        assert report(run, "--output", tmp_path / "modes.json") == 2
        assert words in capsys.readouterr().err


def test_wrong_outputs_and_names(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(*runs, "--output", tmp_path / "modes.txt") == 2
    assert report(*runs, "--output", tmp_path / "a.json", "--plot", tmp_path / "a.gif") == 2
    assert report(*runs, "--output", tmp_path / "nowhere" / "a.json") == 2
    other = write_run(tmp_path / "other" / "mode-none", "none", 1.0)
    assert report(*runs, other, "--output", tmp_path / "a.json") == 2
    err = capsys.readouterr().err.splitlines()
    for sentence, words in zip(err, (".json was expected", ".png", "folder that exists", "'mode-none'"), strict=True):
        assert words in sentence
    assert not (tmp_path / "a.json").exists()
