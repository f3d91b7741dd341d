"""Recordings for the Rerun viewer: by a recording fake, and by the SDK itself where it is installed."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import SceneError
from runtime.layout import parse_layout
from runtime.pictures import write_rerun
from tests.pictures.rooms import ROOM, cloud, names

INSTALLED = importlib.util.find_spec("rerun") is not None


class Archetype:
    """Keeps what it was made of."""

    def __init__(self, *values: Any, **named: Any) -> None:
        self.values, self.named = values, named


class Stream:
    """A stream that remembers, as old versions (`set_time_seconds`) or new ones (`set_time`) are called."""

    def __init__(self, application_id: str) -> None:
        self.application = application_id
        self.time: float | None = None
        self.logged: list[tuple[str, float | None, tuple[Any, ...]]] = []
        self.path, self.blueprint, self.closed = "", None, False

    def save(self, path: str, default_blueprint: Any) -> None:
        self.path, self.blueprint = path, default_blueprint
        Path(path).write_bytes(b"RRF2")

    def log(self, path: str, *what: Any, static: bool = False) -> None:
        self.logged.append((path, None if static else self.time, what))

    def disconnect(self) -> None:
        self.closed = True


class OldStream(Stream):
    def set_time_seconds(self, timeline: str, seconds: float) -> None:
        assert timeline == "time_sec"
        self.time = seconds


class NewStream(Stream):
    def set_time(self, timeline: str, *, duration: float) -> None:
        assert timeline == "time_sec"
        self.time = duration

    def flush(self) -> None:
        """New ones have it."""


@pytest.fixture(params=["old", "new"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The streams that were opened on a fake SDK."""
    opened: list[Stream] = []
    rr, rrb = types.ModuleType("rerun"), types.ModuleType("rerun.blueprint")

    def opener(kind: type[Stream]) -> Any:
        def open_stream(application_id: str) -> Stream:
            opened.append(kind(application_id))
            return opened[-1]

        return open_stream

    if request.param == "old":
        rr.new_recording = opener(OldStream)  # type: ignore[attr-defined]
    else:
        rr.RecordingStream = opener(NewStream)  # type: ignore[attr-defined]
    for module, archetypes in ((rr, ("Points3D", "Boxes3D", "InstancePoses3D")), (rrb, ("Spatial3DView", "Blueprint"))):
        for name in archetypes:
            setattr(module, name, Archetype)
    rr.ViewCoordinates = types.SimpleNamespace(RIGHT_HAND_Z_UP="z up")  # type: ignore[attr-defined]
    rr.blueprint = rrb  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rerun", rr)
    monkeypatch.setitem(sys.modules, "rerun.blueprint", rrb)
    return opened


def test_what_upstream_shows(streams: list[Stream], tmp_path: Path) -> None:
    write_rerun(ROOM, cloud(), tmp_path / "scene.rrd")
    (stream,) = streams
    assert stream.application == "rerun_spatiallm"
    assert stream.closed
    view = stream.blueprint.values[0]  # type: ignore[attr-defined]
    assert (view.named["name"], view.named["origin"], view.named["background"]) == ("3D", "/world", [255, 255, 255])
    assert stream.blueprint.named == {"collapse_panels": True}  # type: ignore[attr-defined]
    assert stream.logged[0] == ("world", None, ("z up",))
    path, time, (points,) = stream.logged[1]
    assert (path, time) == ("world/points", None)
    assert np.array_equal(points.named["positions"], cloud().points)
    assert points.named["colors"].dtype == np.uint8
    assert points.named["radii"] == 0.01


def test_boxes_appear_one_by_one(streams: list[Stream], tmp_path: Path) -> None:
    write_rerun(ROOM, cloud(), tmp_path / "scene.rrd")
    boxes = streams[0].logged[2:]
    assert [path for path, _, _ in boxes] == [
        *(f"world/pred/wall/{i}" for i in range(4)),
        *("world/pred/door/1000", "world/pred/door/1001", "world/pred/window/2000"),
        *(f"world/pred/bbox/{i}" for i in (3000, 3001, 3002)),
    ]
    assert [time for _, time, _ in boxes] == [0.5 * step for step in range(1, 11)]
    shape, pose = boxes[8][2]
    assert shape.named == {"half_sizes": [[0.7, 0.4, 0.375]], "labels": ["dining_table"]}, "no colour: the viewer's own"
    assert pose.named["translations"] == [[3.6, 1.4, 0.4]]
    cos, sin = np.cos(0.5236), np.sin(0.5236)
    assert np.allclose(pose.named["mat3x3"], [[[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]])


def test_a_subset_of_the_points_is_always_the_same(streams: list[Stream], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rerun(ROOM, cloud(), tmp_path / f"{name}.rrd", max_points=100)
    first, second = (stream.logged[1][2][0].named for stream in streams)
    assert len(first["positions"]) == len(first["colors"]) == 100
    assert np.array_equal(first["positions"], second["positions"])
    rows = {tuple(row) for row in cloud().points.tolist()}
    assert all(tuple(row) in rows for row in first["positions"].tolist())


def test_points_without_colours_are_black_and_broken_boxes_left_out(streams: list[Stream], tmp_path: Path) -> None:
    layout = parse_layout("bbox_0=Bbox(bed,nan,1,1,0,1,1,1)\nbbox_1=Bbox(sofa,1,1,1,0,1,1,1)")
    write_rerun(layout, cloud(colors=False), tmp_path / "scene.rrd")
    assert not streams[0].logged[1][2][0].named["colors"].any()
    assert [(path, time) for path, time, _ in streams[0].logged[2:]] == [("world/pred/bbox/3001", 0.5)]


def test_a_recording_appears_whole_or_not_at_all(
    streams: list[Stream], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "log", stop)
    with pytest.raises(KeyboardInterrupt):
        write_rerun(ROOM, cloud(), tmp_path / "scene.rrd")
    assert names(tmp_path) == []


@pytest.mark.usefixtures("streams")
def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"scene\.png: a recording for Rerun is an \.rrd file"):
        write_rerun(ROOM, cloud(), tmp_path / "scene.png")
    with pytest.raises(SceneError, match="cannot be written"):
        write_rerun(ROOM, cloud(), tmp_path / "none" / "scene.rrd")


@pytest.mark.skipif(not INSTALLED, reason="rerun-sdk is a quarter of a gigabyte, so it is not part of the dev extra")
def test_with_the_sdk_itself(tmp_path: Path) -> None:
    write_rerun(ROOM, cloud(), tmp_path / "scene.rrd")
    assert names(tmp_path) == ["scene.rrd"]
    content = (tmp_path / "scene.rrd").read_bytes()
    assert content.startswith(b"RRF2")
    assert len(content) > 12 * len(cloud()), "three floats a point"


def test_a_full_disk_is_told_before_the_sdk_writes(
    streams: list[Stream], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK itself would wait for ever."""
    monkeypatch.setattr("runtime.pictures.viewer.shutil.disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(SceneError, match=r"a\.rrd: cannot be written \(No space left on device: about 1,\d{3},\d{3} b"):
        write_rerun(ROOM, cloud(), tmp_path / "a.rrd")
    assert not streams
    assert names(tmp_path) == []


def test_what_the_sdk_cannot_write_is_a_sentence(
    streams: list[Stream], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Stream, path: str, default_blueprint: Any) -> None:
        raise RuntimeError("Failed to write: Input/output error")

    monkeypatch.setattr(Stream, "save", fail)
    with pytest.raises(SceneError, match=r"a\.rrd: cannot be written \(Failed to write: Input/output error\)\. Name a"):
        write_rerun(ROOM, cloud(), tmp_path / "a.rrd")
    assert names(tmp_path) == []
