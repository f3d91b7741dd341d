"""Packed rooms grow: what is there is read, what is missing is made. And what the script does when."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from demo.rooms import SPLITS
from demo.train import main
from demo.training.pack import pack
from demo.training.store import RoomStore

ROOT = Path(__file__).resolve().parents[2]
SPLIT = range(20_000_000, 20_001_000)


def stand_in(folder: Path, first: int, size: int) -> Path:
    """A file where one with rooms would be; that it is taken for one shows that it is not made again."""
    path = folder / f"rooms-{SPLIT[first]:09}-{size}.npz"
    path.write_bytes(b"rooms")
    return path


def names(paths: list[Path]) -> list[str]:
    return [path.stem[9:] for path in paths]


def test_a_smaller_and_a_larger_count_read_what_is_there(tmp_path: Path) -> None:
    there = [stand_in(tmp_path, first, 25) for first in range(0, 200, 25)]
    assert pack(tmp_path, SPLIT, 100, 25, 1, quiet=True) == there[:4]
    assert pack(tmp_path, SPLIT, 200, 250, 1, quiet=True) == there
    grown = pack(tmp_path, SPLIT, 202, 25, 1, quiet=True)
    assert grown[:8] == there and names(grown[8:]) == ["000200-2"]
    assert all(path.read_bytes() == b"rooms" for path in there)


def test_files_of_other_sizes_are_filled_in_between(tmp_path: Path) -> None:
    large, small = stand_in(tmp_path, 0, 250), stand_in(tmp_path, 252, 3)
    stand_in(tmp_path, 255, 40)  # more than is asked for
    (tmp_path / ".rooms-020000250-1.7.npz").write_bytes(b"cut short")
    paths = pack(tmp_path, SPLIT, 256, 25, 1, quiet=True)
    assert (paths[0], paths[2]) == (large, small)
    assert names(paths) == ["000000-250", "000250-2", "000252-3", "000255-1"]
    read = RoomStore.read([paths[1], paths[3]], torch.device("cpu"))
    assert read.seeds == [SPLIT[250], SPLIT[251], SPLIT[255]]


def test_another_splits_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rooms-000000000-1.npz").write_bytes(b"other")
    (path,) = pack(tmp_path, SPLIT, 1, 25, 1, quiet=True)
    assert path.name == "rooms-020000000-1.npz"


def test_train_adds_rooms_and_keeps_the_validations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made(count: int, *options: str) -> dict[str, int]:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            assert main([*options, "--rooms", str(tmp_path), "--output", str(tmp_path / "out"), "--count", str(count),
                         "--validation", "1", "--jobs", "1", "--pack_only", "--quiet"]) == 0  # fmt: skip
        finally:
            signal.signal(signal.SIGTERM, handler)
        return {str(path.relative_to(tmp_path)): path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}

    few = made(2)
    capsys.readouterr()
    more = made(3, "--mode", "none")
    assert json.loads(capsys.readouterr().out) == {"validation": 1, "train": 2}
    assert few.items() <= more.items() and len(more) == len(few) + 1 == 3
    assert made(2) == more
    seeds = RoomStore.read(sorted((tmp_path / "train").iterdir()), torch.device("cpu")).seeds
    assert seeds == list(SPLITS["train"][:3])


def test_a_count_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rooms", str(tmp_path), "--output", str(tmp_path), "--count", "0"]) == 2
    assert "--count is 0, but at least 1 was expected" in capsys.readouterr().err


TRAIN = """
    import json, pathlib, signal, sys, time
    arguments = sys.argv[1:]
    value = lambda name: arguments[arguments.index(name) + 1] if name in arguments else ""
    output, work = pathlib.Path(value("--output")), pathlib.Path(value("--rooms")).parent
    packing = "--pack_only" in arguments
    def log(event):
        with (work / "log").open("a") as file:
            file.write(f"{event} {output.name} {value('--count')} {value('--validation')}\\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(log("ended")))
    log("packs" if packing else "trains")
    if value("--count") == "20000" and packing:  # the other rooms take until the encodings are trained
        for _ in range(600):
            if len(list(work.glob("mode-*/result.json"))) == 3:
                break
            time.sleep(0.1)
        log("packed")
    if not packing:
        if output.name == "FAILS":
            while "packs none 20000" not in (work / "log").read_text():
                time.sleep(0.05)
            sys.exit(3)
        output.mkdir()
        loss = {"mode-3D_only": 0.1}.get(output.name, 0.2)
        facts = {"settings": {}, "steps": 1, "seconds": 1, "validation": loss, "scores": {}}
        line = {"step": 1, "validation": {"cross_entropy": loss}}
        (output / "curves.jsonl").write_text(json.dumps(line))
        (output / "result.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that, called for demo/train.py, notes what it is called for."""
    fake, script = tmp_path / "python", tmp_path / "train.py"
    script.write_text(textwrap.dedent(TRAIN))
    fake.write_text(
        "#!/bin/sh\n"
        'if [ "$2" = torch.distributed.run ]; then shift 4; fi\n'  # -m torch.distributed.run --nproc_per_node N
        f'if [ "$1" = demo/train.py ]; then shift; exec {sys.executable} {script} "$@"; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    return fake


def reproduce(python: Path, work: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(python), "GPUS": "3", "JOBS": "1", **settings}
    return subprocess.run(
        ["bash", str(ROOT / "demo" / "reproduce.sh"), str(work)], env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


def test_encodings_train_on_some_rooms_while_others_are_made(python: Path, tmp_path: Path) -> None:
    done = reproduce(python, tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert "best of the three: 3D_only" in done.stdout
    runs = json.loads((tmp_path / "work" / "runs.json").read_text())["runs"]
    assert list(runs) == ["mode-3D_only", "mode-3D_with_1D", "mode-none", "final"]
    lines = (tmp_path / "work" / "log").read_text().splitlines()
    assert lines[0] == "packs none 4000 200"
    assert sorted(lines[1:5]) == [
        "packs none 20000 200", "trains mode-3D_only 4000 200", "trains mode-3D_with_1D 4000 200",
        "trains mode-none 4000 200",
    ]  # fmt: skip
    assert lines[5:] == ["packed none 20000 200", "trains final 20000 200"]


def test_no_more_rooms_than_there_are(python: Path, tmp_path: Path) -> None:
    assert reproduce(python, tmp_path / "work", COUNT="300").returncode == 0
    counts = {line.split()[2] for line in (tmp_path / "work" / "log").read_text().splitlines()}
    assert counts == {"300"}


def test_what_runs_beside_ends_with_the_script(python: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(script.read_text().replace("FAILS", "mode-none"))
    assert reproduce(python, tmp_path / "work").returncode == 3
    log = tmp_path / "work" / "log"
    for _ in range(300):  # a signal is on its way when the script is gone
        if "ended none 20000 200" in log.read_text():
            break
        time.sleep(0.1)
    assert "ended none 20000 200" in log.read_text() and "trains final" not in log.read_text()
