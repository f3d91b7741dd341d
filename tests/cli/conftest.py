"""A scene on disk, a bundle, and the two commands called as functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import export.cli
import runtime.cli
from runtime.points import PointCloud
from tests.exported import Export
from tests.scenes import room

_ROOM = room(1, 300)
_MOVED = np.add(_ROOM.points, (10.0, -4.0, 1.0)).astype(np.float32)  # as a PLY of floats keeps it
CLOUD = PointCloud(_MOVED.astype(np.float64), _ROOM.colors)


def write_ply(path: Path, cloud: PointCloud) -> Path:
    """An ascii PLY with 8-bit colours."""
    assert cloud.colors is not None
    names = [*(f"float {axis}" for axis in "xyz"), *(f"uchar {color}" for color in ("red", "green", "blue"))]
    header = ["ply", "format ascii 1.0", f"element vertex {len(cloud)}", *(f"property {name}" for name in names)]
    rows = [
        " ".join(f"{value:.9g}" for value in point) + " " + " ".join(str(round(value * 255)) for value in color)
        for point, color in zip(cloud.points, cloud.colors, strict=True)
    ]
    path.write_text("\n".join([*header, "end_header", *rows]) + "\n")
    return path


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


def _command(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture
def run_engine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("SPATIALLM_VERBOSE", raising=False)
    return _command(runtime.cli.main, capsys)


@pytest.fixture
def export_model(capsys: pytest.CaptureFixture[str]) -> Command:
    return _command(export.cli.main, capsys)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_ply(tmp_path / "scene.ply", CLOUD)


@pytest.fixture
def bundle(exported: Export) -> Path:
    folder: Path = exported("qwen", "3D_RoPE", "3D_only").bundle.folder
    return folder


@pytest.fixture
def engine(run_engine: Command, bundle: Path, scene: Path) -> Command:
    """`engine(*more)`: run_engine on the scene, one thread, six tokens."""

    def call(*more: object) -> Said:
        return run_engine("-m", bundle, "-p", scene, "--threads", 1, "--max_new_tokens", 6, *more)

    return call
