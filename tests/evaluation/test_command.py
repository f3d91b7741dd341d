"""`python -m runtime.evaluate` from end to end, on small folders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.commands.evaluate import main
from runtime.evaluation import folders
from tests.blocked import ROOT, run_without

WALL = "wall_0=Wall(0,0,0,4,0,0,2.5,0.1)\n"
FAR = "wall_0=Wall(0,-9,0,4,-9,0,2.5,0.1)\n"
BED = "bbox_0=Bbox(bunk_bed,1,1,0.5,0,2,1.5,0.5)\n"
TABLES = """\
+---------+-------------+-------------+--------+
| Layouts | F1 @.25 IoU | F1 @.50 IoU | scenes |
+---------+-------------+-------------+--------+
| wall    | 0.8333      | 0.8333      | 2      |
| door    | --          | --          | 0      |
| window  | --          | --          | 0      |
+---------+-------------+-------------+--------+

+-----------------+-------------+-------------+--------+
| Objects         | F1 @.25 IoU | F1 @.50 IoU | scenes |
+-----------------+-------------+-------------+--------+
"""


class Bench:
    """A folder with metadata, mapping, predictions and ground truth."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("m.csv", "id\na\nb\n")
        self.write("l.tsv", "spatiallm59\tspatiallm20\tmine\nbed\tbed\tsofa\nbunk bed\tbed\tsofa\n")
        self.write("pred/a.txt", WALL + BED)
        self.write("pred/b.txt", WALL)
        self.write("gt/a.txt", WALL + WALL.replace("0,0,0,4,0", "4,0,0,4,3") + BED)
        self.write("gt/b.txt", WALL)

    def write(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def arguments(self, **changes: object) -> list[str]:
        paths = {"pred": "pred", "gt": "gt", "metadata": "m.csv", "label_mapping": "l.tsv"} | changes
        return [word for name, path in paths.items() for word in (f"--{name}", str(self.folder / str(path)))]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def score(bench: Bench, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], str]]:
    """`score(*more, **paths)`: the JSON line and stderr of a run that succeeds."""

    def run(*more: str, **paths: object) -> tuple[dict[str, Any], str]:
        code = main([*bench.arguments(**paths), "--json", *more])
        out, err = capsys.readouterr()
        assert (code, out.count("\n")) == (0, 1), err
        found: dict[str, Any] = json.loads(out)
        return found, err

    return run


def refusal(bench: Bench, capsys: pytest.CaptureFixture[str], *more: str, **paths: object) -> str:
    """The sentence of a run that is refused."""
    code = main([*bench.arguments(**paths), *more])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("python -m runtime.evaluate: ")
    assert "Traceback" not in err
    return err


Run = Callable[..., tuple[dict[str, Any], str]]


def test_two_tables(bench: Bench) -> None:
    command = [sys.executable, "-m", "runtime.evaluate", *bench.arguments()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(TABLES)
    rows = [line for line in result.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 3 + 1 + 20
    assert "| bed             | 1.0000      | 1.0000      | 1      |" in rows
    assert len({len(row) for row in rows[4:]}) == 1


def test_one_line_of_json_with_counts_by_class_and_scene(score: Run) -> None:
    found, err = score()
    assert err == ""
    assert (found["thresholds"], found["strict_geometry"], found["issues"]) == ([0.25, 0.5], False, [])
    wall = found["layouts"]["wall"]
    assert wall.pop("f1") == pytest.approx([5 / 6, 5 / 6])
    assert wall == {"scenes": 2, "predicted": 2, "truth": 3, "true_positives": [2, 2]}
    none = {"f1": [None, None], "scenes": 0, "predicted": 0, "truth": 0, "true_positives": [0, 0]}
    assert found["objects"]["tv"] == none
    assert [scene["id"] for scene in found["scenes"]] == ["a", "b"]
    assert found["scenes"][1]["classes"] == {
        "wall": {"f1": [1.0, 1.0], "predicted": 1, "truth": 1, "true_positives": [1, 1]}
    }
    assert set(found["scenes"][0]["classes"]) == {"wall", "bed"}


def test_strict_geometry_is_chosen_and_told(bench: Bench, score: Run) -> None:
    bench.write("pred/b.txt", FAR)
    assert score()[0]["scenes"][1]["classes"]["wall"]["f1"] == [1.0, 1.0]
    strict, _ = score("--strict_geometry")
    assert strict["strict_geometry"] is True
    assert strict["scenes"][1]["classes"]["wall"]["f1"] == [0.0, 0.0]


def test_a_scene_named_twice_counts_twice(bench: Bench, score: Run) -> None:
    bench.write("m.csv", "id\na\na\nb\n")
    assert score()[0]["layouts"]["wall"]["f1"][0] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_other_columns(bench: Bench, score: Run) -> None:
    found, _ = score("--label_to", "mine")
    assert (found["objects"]["bed"]["scenes"], found["objects"]["sofa"]["f1"]) == (0, [1.0, 1.0])


def test_the_names_of_the_original_options_do_too(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [{"--pred": "--pred_dir", "--gt": "--gt_dir"}.get(word, word) for word in bench.arguments()]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(TABLES)


def test_a_missing_prediction_counts_as_empty_and_missing_truth_is_left_out(bench: Bench, score: Run) -> None:
    bench.write("m.csv", "id\na\nb\nc\nd\n")
    bench.write("pred/c.txt", WALL)
    (bench.folder / "pred/b.txt").unlink()
    found, err = score()
    assert [scene["id"] for scene in found["scenes"]] == ["a", "b"]
    assert found["scenes"][1]["classes"]["wall"]["f1"] == [0.0, 0.0]
    assert found["scenes"][1]["issues"] == ["prediction: there is no file, so it counts as empty"]
    assert found["issues"] == [f"{name}: left out, there is no ground truth" for name in "cd"]
    assert err.splitlines() == [*found["issues"], "b: prediction: there is no file, so it counts as empty"]


def test_an_empty_file_is_an_empty_layout(bench: Bench, score: Run) -> None:
    bench.write("pred/b.txt", "")
    found, err = score()
    assert (found["scenes"][1]["classes"]["wall"]["predicted"], err) == (0, "")


def test_a_flat_wall_ends_no_run(bench: Bench, score: Run) -> None:
    bench.write("pred/b.txt", WALL.replace("2.5", "0") + WALL.replace("2.5", "nan") + WALL)
    found, err = score()
    assert found["scenes"][1]["classes"]["wall"]["true_positives"] == [1, 1]
    assert "b: prediction: no area, so it overlaps nothing: wall_0" in err
    assert "b: prediction: with a number that is not finite: wall_0" in err


def test_quiet_lists_no_issues_and_many_are_cut(bench: Bench, score: Run) -> None:
    names = [f"s{i:02d}" for i in range(30)]
    bench.write("m.csv", "id\na\n" + "\n".join(names))
    assert score("--quiet")[1] == ""
    found, err = score()
    assert len(found["issues"]) == 30
    assert err.splitlines()[-1] == "... and 10 more; --json lists all."
    assert len(err.splitlines()) == 21


@pytest.mark.parametrize("which", ["pred", "gt"])
def test_a_folder_that_is_none(bench: Bench, capsys: pytest.CaptureFixture[str], which: str) -> None:
    assert f"{bench.folder}/none: is no folder" in refusal(bench, capsys, **{which: "none"})
    assert f"{bench.folder}/m.csv: is no folder" in refusal(bench, capsys, **{which: "m.csv"})


def test_no_scene_in_both_folders(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write("m.csv", "id\nx\ny\n")
    assert "None of the 2 scenes of the metadata lies in both folders" in refusal(bench, capsys)
    assert "expected: x.txt" in refusal(bench, capsys)


def test_tables_that_cannot_be_used(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no column 'id'; its first line names" in refusal(bench, capsys, metadata="l.tsv")
    assert "has no column 'spatiallm59'" in refusal(bench, capsys, label_mapping="m.csv")
    assert "has no column 'yours'" in refusal(bench, capsys, "--label_to", "yours")
    assert "none.csv: cannot be read (No such file or directory)" in refusal(bench, capsys, metadata="none.csv")


@pytest.mark.parametrize("which", ["pred", "gt"])
def test_a_layout_that_is_none(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    path = bench.folder / which / "b.txt"
    path.write_bytes(b"wall\xff")
    assert f"{path}: is no UTF-8 text" in refusal(bench, capsys)
    monkeypatch.setattr(folders, "MAX_BYTES", 200)
    path.write_text("#" * 201)
    assert f"{path}: has 201 bytes, but at most 200 were expected" in refusal(bench, capsys)
    path.unlink()
    path.mkdir()
    assert f"{path}: is no file" in refusal(bench, capsys)


def test_without_shapely_one_sentence(bench: Bench) -> None:
    code = "import sys; from runtime.commands.evaluate import main; sys.exit(main())"
    result = run_without(["shapely"], code, *bench.arguments())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "python -m runtime.evaluate: needs the package 'shapely', which is not installed. "
        "Install it: pip install '.[eval]'\n"
    )


def test_without_torch_and_engines(bench: Bench) -> None:
    code = "import sys; from runtime.commands.evaluate import main; sys.exit(main())"
    result = run_without(["torch", "transformers", "onnx", "onnxruntime", "tensorrt"], code, *bench.arguments())
    assert (result.returncode, result.stderr) == (0, "")


def test_run_engine_needs_no_shapely() -> None:
    result = run_without(["shapely"], "import runpy; sys.argv[1:] = ['--help']; import runtime.cli, runtime")
    assert result.returncode == 0, result.stderr
