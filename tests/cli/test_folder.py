"""Folders of scenes: bad ones, restarts, batches, and a run that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.points import PointCloud
from tests.cli.conftest import Command, Said, write_ply
from tests.scenes import room

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["attic", "bath", "cellar"]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three rooms of different sizes."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        cloud = room(seed, 300, (2.0 + seed, 3.0, 2.5))
        points = cloud.points.astype(np.float32).astype(np.float64)
        write_ply(folder / f"{name}.ply", PointCloud(points, cloud.colors))
    return folder


@pytest.fixture
def run(run_engine: Command, bundle: Path, scenes: Path) -> Command:
    """`run(output, *more)`: run_engine on the folder, one thread, six tokens."""

    def call(output: Path, *more: object) -> Said:
        return run_engine("-m", bundle, "-p", scenes, "-o", output, "--threads", 1, "--max_new_tokens", 6, *more)

    return call


def summary(said: Said) -> dict[str, object]:
    facts: dict[str, object] = json.loads(said.out)
    return facts


def test_every_scene_gets_its_layout(
    run: Command, run_engine: Command, bundle: Path, scenes: Path, tmp_path: Path
) -> None:
    said = run(tmp_path / "out")
    assert said.code == 0
    assert said.out.endswith("3 scenes done, 0 skipped, 0 failed.\n")
    for name in NAMES:
        alone = tmp_path / f"{name}.txt"
        options = ("--threads", 1, "--max_new_tokens", 6, "--quiet")
        assert run_engine("-m", bundle, "-p", scenes / f"{name}.ply", "-o", alone, *options).code == 0
        assert (tmp_path / "out" / f"{name}.txt").read_text() == alone.read_text()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_batch_gives_what_single_scenes_give(run: Command, tmp_path: Path, size: int) -> None:
    assert run(tmp_path / "one").code == 0
    assert run(tmp_path / "many", "--batch_size", size).code == 0
    for name in NAMES:
        assert (tmp_path / "many" / f"{name}.txt").read_text() == (tmp_path / "one" / f"{name}.txt").read_text()


@pytest.mark.parametrize("size", [1, 2])
def test_drawing_does_not_depend_on_the_company(run: Command, tmp_path: Path, size: int) -> None:
    options = ("--do_sample", "--seed", 3, "--output_format", "json")
    assert run(tmp_path / "a", *options, "--batch_size", size).code == 0
    assert run(tmp_path / "b", *options, "--batch_size", 3).code == 0
    for name in NAMES:
        assert (tmp_path / "a" / f"{name}.json").read_text() == (tmp_path / "b" / f"{name}.json").read_text()


@pytest.mark.parametrize("size", [1, 3])
def test_one_bad_scene_does_not_stop_the_others(run: Command, scenes: Path, tmp_path: Path, size: int) -> None:
    (scenes / "bad.ply").write_text("solid cube\n")
    said = run(tmp_path / "out", "--json", "--batch_size", size)
    assert said.code == 1
    facts = summary(said)
    assert facts["done"] == [f"{name}.ply" for name in NAMES]
    assert list(facts["failed"]) == ["bad.ply"]  # type: ignore[call-overload]
    assert "bad.ply: not a PLY" in said.err
    assert not (tmp_path / "out" / "bad.txt").exists()


def test_a_restart_skips_what_is_done(run: Command, scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert summary(run(output, "--json"))["done"] == [f"{name}.ply" for name in NAMES]
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.txt")}
    assert summary(run(output, "--json"))["skipped"] == [f"{name}.ply" for name in NAMES]
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.txt")} == before
    assert summary(run(output, "--json", "--overwrite"))["done"] == [f"{name}.ply" for name in NAMES]


def test_what_changed_runs_again(run: Command, scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(output)
    (output / "attic.txt").write_text("edited")
    write_ply(scenes / "bath.ply", room(9, 200))
    assert summary(run(output, "--json"))["done"] == ["attic.ply", "bath.ply"]
    assert len(summary(run(output, "--json", "--max_new_tokens", "5"))["done"]) == 3  # type: ignore[arg-type]
    assert len(summary(run(output, "--json", "--max_new_tokens", "6"))["done"]) == 3  # type: ignore[arg-type]


def test_a_torn_journal_costs_one_scene(run: Command, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(output)
    journal = output / "finished.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert summary(run(output, "--json"))["done"] == ["cellar.ply"]
    assert len(summary(run(output, "--json"))["skipped"]) == 3  # type: ignore[arg-type]


def test_of_two_scenes_with_one_name_the_second_fails(run: Command, scenes: Path, tmp_path: Path) -> None:
    np.save(scenes / "bath.npy", room(1, 300).points)
    said = run(tmp_path / "out", "--json")
    assert said.code == 1
    assert list(summary(said)["failed"]) == ["bath.ply"]  # type: ignore[call-overload]
    assert "bath.ply: its layout would be bath.txt, as that of bath.npy. Rename one of the scenes." in said.err


def test_warnings_of_each_scene_are_shown_and_kept(run: Command, scenes: Path, tmp_path: Path) -> None:
    np.save(scenes / "huge.npy", (room(1, 300).points * 1000).astype(np.int32))
    (scenes / "notes.txt").write_text("not a scene")
    said = run(tmp_path / "out", "--json")
    assert "--scale 0.001" in summary(said)["warnings"]["huge.npy"][0]  # type: ignore[index]
    assert "warning: huge.npy: " in said.err
    assert "1 .txt file is not taken for scenes (notes.txt). " in said.err
    spoken = run(tmp_path / "out", "--overwrite", "--report", "--timings").out
    assert spoken.count("tokens/s while decoding") == 4
    assert spoken.count("up axis: ") == 4


def test_the_truth_beside_a_scene_is_no_reason_for_a_warning(run: Command, scenes: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (scenes / f"{name}.txt").write_text("wall_0=Wall(0,0,0,4,0,0,2.5,0)")
    assert "taken for" not in run(tmp_path / "out").err
    for name in ("notes", "ROOM"):
        (scenes / f"{name}.txt").write_text("not a truth")
    assert "2 .txt files are not taken for scenes (ROOM.txt, ...). " in run(tmp_path / "out").err


def test_kill_9_loses_at_most_the_scene_under_way(bundle: Path, scenes: Path, tmp_path: Path) -> None:
    """Killed again and again at other moments; what stands is whole, and the last run finishes the rest."""
    output = tmp_path / "out"
    command = [sys.executable, "run_engine.py", "-m", bundle, "-p", scenes, "-o", output, "--threads", "1"]
    command += ["--max_new_tokens", "200", "--no_verify", "--quiet"]
    whole: dict[str, str] = {}
    for scenes_done in (1, 2):
        process = subprocess.Popen([str(word) for word in command], cwd=ROOT)
        deadline = time.monotonic() + 60
        while len(list(output.glob("[!.]*.txt"))) < scenes_done and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for name, text in whole.items():
            assert (output / name).read_text() == text, "a finished scene was run again or damaged"
        whole = {path.name: path.read_text() for path in output.glob("[!.]*.txt")}
        assert scenes_done <= len(whole) < 3
    finished = subprocess.run([str(word) for word in [*command, "--json"]], cwd=ROOT, capture_output=True, text=True)
    facts = json.loads(finished.stdout)
    assert len(facts["done"]) + len(facts["skipped"]) == 3
    assert len(facts["skipped"]) >= len(whole) - 1, "more than the scene under way was lost"
    assert {path.name for path in output.iterdir()} - {"finished.jsonl"} >= {f"{name}.txt" for name in NAMES}
