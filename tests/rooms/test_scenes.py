"""The scans that `make demo` reads are those that the generator gives for their seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.rooms import SPLITS, make_scan
from runtime.layout import Layout, parse_layout
from runtime.points import read_point_cloud

FOLDER = Path(__file__).resolve().parents[2] / "demo" / "scenes"
SCENES = sorted(FOLDER.glob("*.ply"))


def truth(scene: Path) -> Layout:
    return parse_layout(scene.with_suffix(".txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.stem)
def test_a_committed_scan_is_what_its_seed_gives(scene: Path) -> None:
    assert int(scene.stem) in SPLITS["test"]
    made, kept = make_scan(int(scene.stem)), read_point_cloud(scene)
    assert truth(scene) == made.layout
    assert kept.colors is not None and len(kept) == len(made.points)
    same = np.abs(kept.points - made.points).max(axis=1) < 1e-3
    same &= (np.abs(255 * kept.colors - made.colors) < 1.5).all(axis=1)
    assert same.mean() > 0.999  # not the bytes: sines of another processor may let a ray pass an edge on its other side


def test_they_are_small_and_show_all_kinds_of_rooms() -> None:
    assert len(SCENES) == 3
    assert all(scene.stat().st_size < 1_000_000 for scene in SCENES)
    layouts = [truth(scene) for scene in SCENES]
    assert {len(layout.walls) for layout in layouts} == {4, 6, 8}
    assert {len(layout.doors) for layout in layouts} == {1, 2}
    assert all(layout.windows and len(layout.boxes) >= 5 for layout in layouts)
    assert len({box.class_name for layout in layouts for box in layout.boxes}) >= 10
