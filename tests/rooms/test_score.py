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
    code, out, err = score("--pred", "good/l", "other=bad/l", "--output", "score.json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts == json.loads(Path("score.json").read_text())
    assert (facts["l"]["wall"], facts["l"]["box"]) == ([1.0, 1.0], [1.0, 1.0])
    assert (facts["other"]["wall"], facts["other"]["same_layouts_as_first"]) == ([0.0, 0.0], 0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pred", "good/l", "bad/l"], "--pred names 'l' twice. Tell them apart: --pred a=DIR b=DIR."),
        (["--pred", "x=good/l", "x=bad/l"], "--pred names 'x' twice."),
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
