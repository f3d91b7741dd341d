"""`python -m demo.score` from the outside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import demo.score

ROOM = "wall_0=Wall(0,0,0,4,0,0,2.7,0)\nwall_1=Wall(4,0,0,4,3,0,2.7,0)\nbbox_0=Bbox(bed,1,1,0.5,0,1,2,1)\n"
Score = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """truth/a.txt, the same layout in good/l, and none of its entities in bad/l."""
    for name, text in (("truth", ROOM), ("good/l", ROOM), ("bad/l", "wall_0=Wall(9,9,0,8,8,0,2.7,0)")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text(text)
    return tmp_path


@pytest.fixture
def score(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Score:
    monkeypatch.chdir(folder)

    def call(*words: str) -> tuple[int, str, str]:
        code = demo.score.main(["--truth", "truth", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_two_predictions(score: Score) -> None:
    code, out, err = score("--pred", "good/l", "other=bad/l", "--json", "--output", "score.json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts == json.loads(Path("score.json").read_text())
    good, other = facts["scores"]["l"], facts["scores"]["other"]
    assert (good["wall"], good["box"], good["door"]) == ([1.0, 1.0], [1.0, 1.0], [None, None])
    assert (other["wall"], other["same_layouts_as_first"]) == ([0.0, 0.0], 0)
    assert (facts["apart_in_points"]["door"], facts["largest_apart_in_points"]) == ([0.0, 0.0], 100.0)


def test_kinds_at_both_thresholds(score: Score, folder: Path) -> None:
    """A wall a quarter too short, a door moved by half its width, a box of another class, and one that is too much."""
    (folder / "truth" / "a.txt").write_text(ROOM + "door_0=Door(wall_0,2,0,1,0.9,2)\n")
    (folder / "truth" / "b.txt").write_text(ROOM)
    said = (
        "wall_0=Wall(0,0,0,3,0,0,2.7,0)\nwall_1=Wall(4,0,0,4,3,0,2.7,0)\ndoor_0=Door(wall_0,2.45,0,1,0.9,2)\n"
        "bbox_0=Bbox(sofa,1,1,0.5,0,1,2,1)\nbbox_1=Bbox(bed,1.3,1,0.5,0,1,2,1)\n"
    )
    (folder / "good" / "l" / "a.txt").write_text(said)
    (folder / "good" / "l" / "b.txt").write_text(ROOM)
    own = json.loads(score("--pred", "good/l", "--json")[1])["scores"]["l"]
    assert own["wall"] == [1.0, 1.0]
    assert own["door"] == [1.0, 0.0]  # the mean over the one room that has any
    assert own["box"] == [0.8, 0.8]  # 2 found of 3 predicted and 2 true, both rooms pooled
    assert own["aims_met"] is False


def test_the_tables(score: Score, folder: Path) -> None:
    (folder / "bad" / "l" / "a.txt").write_text(ROOM.replace("bed", "sofa"))
    code, out, err = score("--pred", "torch=good/l", "onnx=bad/l", "--by_room", "--within", "1")
    assert (code, err) == (1, "")
    assert [line.split() for line in out.splitlines() if line.startswith(("1 room", "walls", "boxes"))] == [
        ["1", "room", "IoU", "torch", "onnx", "apart", "aim"],
        ["walls", "0.25", "1.000", "1.000", "0.00", "0.900"],
        ["walls", "0.50", "1.000", "1.000", "0.00", "0.800"],
        ["boxes", "0.25", "1.000", "0.000", "100.00", "0.700"],
        ["boxes", "0.50", "1.000", "0.000", "100.00"],
    ]
    assert "a            2 of 2  --     --       0 of 1, 1 wrong\n" in out
    assert out.endswith(
        "Rooms with the very layout of torch: onnx 0 of 1.\nFurthest apart: 100.00 points, MORE than 1.\n"
    )


@pytest.mark.parametrize(("within", "code"), [("1.0", 0), ("0.1", 1)])
def test_how_far_apart_is_too_far(score: Score, folder: Path, within: str, code: int) -> None:
    """Two hundred boxes, of which one engine has one less: half a box in a hundred is 0.25 points of F1."""
    room = "".join(f"bbox_{i}=Bbox(bed,{2 * i},1,0.5,0,1,1,1)\n" for i in range(200))
    for name, text in (("truth", room), ("good/l", room), ("bad/l", room[: room.index("bbox_199")])):
        (folder / name / "a.txt").write_text(text)
    assert score("--pred", "one=good/l", "other=bad/l", "--within", within)[0] == code
    facts = json.loads(score("--pred", "other=bad/l", "one=good/l", "--within", within, "--json")[1])
    assert (facts["largest_apart_in_points"], facts["is_within"]) == (0.25, code == 0)


def test_what_no_room_has_and_one_engine_makes_up_counts(score: Score, folder: Path) -> None:
    (folder / "bad" / "l" / "a.txt").write_text(ROOM + "window_0=Window(wall_0,2,0,1,0.9,1)\n")
    facts = json.loads(score("--pred", "one=good/l", "other=bad/l", "--json")[1])
    assert facts["apart_in_points"] == {"wall": [0, 0], "door": [0, 0], "window": [100, 100], "box": [0, 0]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pred", "good/l", "bad/l"], "--pred names 'l' twice. Tell them apart: --pred a=DIR b=DIR."),
        (["--pred", "x=good/l", "x=bad/l"], "--pred names 'x' twice."),
        (["--pred", "good/l", "--within", "1"], "--within compares predictions, but --pred names one."),
        (["--pred", "good/l", "x=bad/l", "--within", "-1"], "--within is -1, but points from 0 were expected."),
        (["--pred", "good/l", "x=bad/l", "--within", "nan"], "--within is nan, but points from 0 were expected."),
        (["--pred", "good/l", "x=bad/l", "--within", "inf"], "--within is inf, but points from 0 were expected."),
        (["--pred", "nowhere"], "nowhere/a.txt: no such file. Run run_engine.py over the rooms first."),
        (["--pred", "noise"], "noise/a.txt: no line of it is part of a layout"),
        (["--pred", "pipes"], "pipes/a.txt: cannot be read as a layout (it is no ordinary file)."),
        (["--pred", "good/l", "--output", "truth/a.txt"], "truth/a.txt: the ending is '.txt', but .json was expected."),
        (["--pred", "good/l", "--output", "nowhere/a.json"], "nowhere/a.json: cannot be written there."),
    ],
)
def test_refusals(score: Score, folder: Path, words: list[str], sentence: str) -> None:
    (folder / "noise").mkdir()
    (folder / "noise" / "a.txt").write_text("solid cube")
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipes" / "a.txt")  # to read it would wait for ever
    code, out, err = score(*words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert (folder / "truth" / "a.txt").read_text() == ROOM


@pytest.mark.parametrize(("given", "name"), [("lr=1", "lr=1"), ("own=lr=1", "own"), ("=lr=1", "lr=1")])
def test_an_equals_sign_in_the_name_of_a_folder(score: Score, folder: Path, given: str, name: str) -> None:
    (folder / "good" / "l").rename(folder / "lr=1")
    code, out, err = score("--pred", given, "--json")
    assert (code, err, list(json.loads(out)["scores"])) == (0, "", [name])


def test_a_full_disk_leaves_the_old_scores(score: Score, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "score.json").write_text("old")
    before = sorted(path.name for path in folder.iterdir())

    def full(self: Path, content: str, encoding: str) -> int:
        self.write_bytes(content.encode(encoding)[:9])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    code, out, err = score("--pred", "good/l", "--output", "score.json")
    assert (code, out) == (2, "")
    assert "score.json: cannot be written (No space left on device). Choose another --output." in err
    assert (folder / "score.json").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == before
