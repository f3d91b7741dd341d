"""`python -m demo.run`, which `make demo` calls, with random weights and a small scene."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import demo.run
from runtime.layout import read_layout
from tests.cli.conftest import write_ply
from tests.scenes import room


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    folder.mkdir()
    write_ply(folder / "7.ply", room(1, 300))
    (folder / "7.txt").write_text("wall_0=Wall(0,0,0,4,0,0,2.5,0)\nbbox_0=Bbox(bed,1.1,0.9,0.35,0,1.2,0.8,0.7)")
    return folder


def call(model: Path, scenes: Path, output: Path) -> int:
    return demo.run.main(["--model", str(model), "--scenes", str(scenes), "--output", str(output)])


def test_from_a_checkpoint_to_scores(
    tiny_checkpoint: Callable[..., Path],
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo.run, "MOST_TOKENS", 8)
    assert call(tiny_checkpoint("qwen"), scenes, tmp_path / "out") == 0  # noise is no failure
    out = capfd.readouterr().out
    commands = [line.split()[1:4] for line in out.splitlines() if line.startswith("$ ")]
    assert [words[1 + (words[1] == "-m")] for words in commands] == ["export_model.py", "run_engine.py", "demo.score"]
    for words in ("8 tokens, ended by", "tokens/s while decoding", "7      0 of 1  --     --       0 of 1", "1 room"):
        assert words in out
    results = tmp_path / "out" / "demo"
    assert sorted(path.name for path in results.iterdir()) == ["7.json", "7.png", "7.txt"]
    assert read_layout(results / "7.json") == read_layout(results / "7.txt")
    assert (results / "7.png").read_bytes().startswith(b"\x89PNG")


def test_a_step_that_fails_ends_the_demo(
    tiny_checkpoint: Callable[..., Path], scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert call(broken, scenes, tmp_path / "out") == 2
    out, err = capfd.readouterr()
    assert "run_engine.py --bundle" not in out.splitlines()[-1]
    assert "export_model.py: " in err  # its own sentence, then the demo's
    assert err.splitlines()[-1].startswith(
        "python -m demo.run: the demo ends here: this command ended with exit code 2"
    )


def test_a_folder_without_scans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, tmp_path, tmp_path / "out") == 2
    assert "holds no .ply. Make scans: python -m demo.rooms --output" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", [".", "demo", "tests/demo"])
def test_results_do_not_lie_among_the_source(folder: str, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(scenes, scenes, demo.run.ROOT / folder) == 2
    assert "is a folder of the source, where bundle/ and demo/ would lie among its files." in capsys.readouterr().err
    assert not (demo.run.ROOT / folder / "bundle").exists()
