"""The geometry verdict: which entity is which, how far its ends moved, and what stays out of it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from export.parity.cli import main as parity
from export.parity.geometry import MOVED, OTHER, SAME, GeometryDifference, LayoutReader, compare_layouts
from export.parity.report import render
from runtime.commands.record import main as record
from runtime.layout import Layout, parse_layout
from runtime.prompt import Tokenizer
from runtime.rung import Recording
from tests.exported import Export, Exported
from tests.parity.reports import Page, comparison, result, rung
from tests.scenes import room

BINS = 1280  # of 25 mm
ROOM = """wall_0=Wall(40,40,40,200,40,40,104,0)
wall_1=Wall(200,40,40,200,160,40,104,0)
door_0=Door(wall_0,100,40,80,40,80)
window_0=Window(wall_1,200,100,90,60,40)
bbox_0=Bbox(bed,100,100,60,640,80,120,40)
bbox_1=Bbox(bed,160,130,60,640,80,120,40)"""


def layout(text: str = ROOM) -> Layout:
    return parse_layout(text)


def compared(got: str, want: str = ROOM) -> GeometryDifference:
    found = compare_layouts(layout(want), layout(got), BINS)
    assert found is not None
    return found


def test_the_same_layout_in_another_order() -> None:
    found = compared("\n".join(reversed(ROOM.splitlines()[:2])) + "\n" + "\n".join(reversed(ROOM.splitlines()[2:])))
    assert (found.verdict, found.matched, found.moved, found.largest_mm) == (SAME, 6, 0, 0.0)
    assert (found.mean_iou, found.f1) == (1.0, (1.0, 1.0))
    assert found.classes == {"wall": (2, 2, 2), "door": (1, 1, 1), "window": (1, 1, 1), "bed": (2, 2, 2)}
    assert found.reason == "all 6 entities have the same numbers."


def test_one_end_moves_by_two_bins() -> None:
    """160 bins of length become 162: two bins of 25 mm, and 160/162 of the area is shared."""
    found = compared(ROOM.replace("200,40,40,104,0)\nwall_1", "202,40,40,104,0)\nwall_1"))
    assert found.verdict == MOVED
    assert (found.matched, found.moved, found.largest_move) == (6, 1, 2.0)
    assert found.numbers == 2 * 8 + 2 * 5 + 2 * 7
    assert found.largest_mm == pytest.approx(50.0)
    assert found.mean_mm == pytest.approx(50.0 / 6)
    # The door hangs in that wall, whose direction is the same; only the wall's own overlap is less than whole.
    assert found.least_iou == pytest.approx(160 / 162)
    assert found.f1 == (1.0, 1.0)
    assert "1 of 40 numbers moved, by at most 2 bins; endpoints off by up to 50 mm (8.3 in the mean)" in found.reason


def test_a_wall_written_from_its_other_end_is_that_wall() -> None:
    found = compared(ROOM.replace("200,40,40,200,160,40", "200,160,40,200,40,40"))
    assert (found.verdict, found.moved, found.largest_mm) == (SAME, 0, 0.0)


def test_sizes_and_angles_move_in_bins_and_no_endpoint_does() -> None:
    found = compared(ROOM.replace("640,80,120,40)\nbbox_1", "647,80,60,40)\nbbox_1"))
    assert (found.verdict, found.moved, found.largest_move, found.largest_mm) == (MOVED, 2, 60.0, 0.0)
    assert 0.3 < (found.least_iou or 0) < 0.55
    assert found.f1[0] == 1.0


def test_missing_and_new_entities() -> None:
    fewer = compared("\n".join(ROOM.splitlines()[:-1]))
    assert (fewer.verdict, fewer.want, fewer.got, fewer.matched) == (OTHER, 6, 5, 5)
    assert fewer.f1 == pytest.approx((10 / 11, 10 / 11))
    more = compared(ROOM + "\nbbox_2=Bbox(sofa,100,100,60,640,80,120,40)")
    assert (more.verdict, more.matched, more.classes["sofa"]) == (OTHER, 6, (0, 1, 0))
    assert more.reason.startswith("6 of 6 entities found again, 1 new;")
    far = compared(ROOM.replace("Bbox(bed,160,130", "Bbox(bed,900,900"))
    assert (far.verdict, far.classes["bed"]) == (OTHER, (2, 2, 1))


def test_each_is_paired_with_the_nearest_and_none_twice() -> None:
    """The first box moved onto the place between: greedily, it would take the second one's partner."""
    want = "bbox_0=Bbox(bed,100,100,60,640,8,8,8)\nbbox_1=Bbox(bed,120,100,60,640,8,8,8)"
    found = compared("bbox_0=Bbox(bed,112,100,60,640,8,8,8)\nbbox_1=Bbox(bed,130,100,60,640,8,8,8)", want)
    assert (found.matched, found.largest_mm) == (2, pytest.approx(300.0))


@pytest.mark.parametrize("number", ["nan", "inf", "1e300"])
def test_numbers_that_are_none_match_nothing(number: str) -> None:
    found = compared(ROOM.replace("Bbox(bed,160", f"Bbox(bed,{number}"))
    assert (found.verdict, found.matched) == (OTHER, 5)
    sized = compared(ROOM.replace("640,80,120,40)\nbbox_1", f"640,80,{number},40)\nbbox_1"))
    assert sized.verdict == MOVED
    assert sized.least_iou == pytest.approx(0.0, abs=1e-3)
    assert sized.largest_move > 1e6 or math.isinf(sized.largest_move)


def test_flat_walls_and_openings_without_a_wall() -> None:
    want = "wall_0=Wall(4,4,4,4,4,4,0,0)\ndoor_0=Door(wall_0,4,4,4,4,4)"
    assert compared(want, want).f1 == (1.0, 1.0), "what has the same numbers is the same"
    moved = compared(want.replace("4,4,4)", "4,4,5)"), want)
    assert (moved.verdict, moved.least_iou) == (MOVED, 0.0)


def test_without_entities_there_is_no_geometry() -> None:
    assert compare_layouts(layout("noise"), layout(""), BINS) is None
    one_sided = compare_layouts(layout(ROOM), layout("noise"), BINS)
    assert one_sided is not None
    assert (one_sided.verdict, one_sided.got, one_sided.mean_mm, one_sided.f1) == (OTHER, 0, None, (0.0, 0.0))
    assert one_sided.reason == "0 of 6 entities found again; F1 0.00 and 0.00 at IoU 0.25 and 0.5."


@pytest.fixture
def case(exported: Export) -> Exported:
    return exported("qwen", "3D_RoPE", "3D_only", "causal")


@pytest.fixture
def reader(case: Exported) -> LayoutReader:
    manifest = case.bundle.manifest
    return LayoutReader(Tokenizer.load(case.bundle.folder, manifest.prompt), manifest)


def spelled(case: Exported, text: str, *, stopped: bool = True) -> Recording:
    tokenizer = tokenizers.Tokenizer.from_file(str(case.bundle.folder / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stop = case.bundle.manifest.generation.stop_token_ids[:1] if stopped else ()
    return Recording({}, {"free.tokens": np.array([*ids, *stop], np.int32)})


def test_tokens_become_layouts(case: Exported, reader: LayoutReader) -> None:
    moved = ROOM.replace("Bbox(bed,160", "Bbox(bed,161")
    found = reader.compare(spelled(case, ROOM), spelled(case, moved))
    assert found is not None
    assert (found.verdict, found.matched, found.largest_move) == (MOVED, 6, 1.0)
    assert reader.compare(spelled(case, "noise"), spelled(case, "")) is None


def test_a_line_that_was_cut_off_is_left_out(case: Exported, reader: LayoutReader) -> None:
    """Its last number may lack digits."""
    whole, cut = spelled(case, ROOM), spelled(case, ROOM[:-2], stopped=False)
    for pair in ((whole, cut), (cut, whole), (cut, cut)):
        found = reader.compare(*pair)
        assert found is not None
        assert (found.verdict, found.want, found.got) == (SAME, 5, 5)


def test_a_rung_that_stopped_early_lacks_what_the_other_wrote(case: Exported, reader: LayoutReader) -> None:
    found = reader.compare(spelled(case, ROOM), spelled(case, "\n".join(ROOM.splitlines()[:2])))
    assert found is not None
    assert (found.verdict, found.want, found.got) == (OTHER, 6, 2)


def test_in_the_command_and_its_results(case: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights write no layout, so that the recordings are given tokens that do."""
    cloud, rungs = tmp_path / "scene.npy", {name: tmp_path / f"{name}.npz" for name in ("desk", "robot")}
    np.save(cloud, room(1, 4000, (4.0, 3.0, 2.5)).points)
    fixed = ["--bundle", str(case.bundle.folder), "--point_cloud", str(cloud), "--no_cleanup"]
    fixed += ["--forced_steps", "2", "--free_tokens", "4"]
    texts = {"desk": ROOM, "robot": ROOM.replace("Bbox(bed,160", "Bbox(bed,161")}
    for name, path in rungs.items():
        command = [*fixed, "--backend", "onnxruntime", "--rung", name, "--output", str(path), "--quiet"]
        assert record(command) == 0
        recording = Recording.load(path)
        tokens = spelled(case, texts[name]).arrays["free.tokens"]
        margins = np.zeros(len(tokens), np.float32)
        dataclasses.replace(recording, arrays=recording.arrays | {"free.tokens": tokens, "free.margins": margins}).save(
            path
        )
    command = [*fixed, "--backends", "onnxruntime", "--against", *map(str, rungs.values())]
    code = parity([*command, "--report", str(tmp_path / "p.json")])
    said = capsys.readouterr().out
    assert code == 1, "the tokens of the first rung are noise"
    sentence = "6 of 6 entities found again; 1 of 40 numbers moved, by at most 1 bin; endpoints off by up to 50 mm"
    assert f"    layout: moved; {sentence}" in said
    found = json.loads((tmp_path / "p.json").read_text())["scenes"][0]["rungs"]
    assert found[2]["below"]["geometry"]["classes"]["bed"] == [2, 2, 2]
    assert found[1]["below"]["geometry"] is None, "four tokens of noise against the first four of a layout"
    assert parity([*command, "--report", str(tmp_path / "p.html"), "--quiet"]) == 1
    page = Page((tmp_path / "p.html").read_text())
    assert "≈ moved wall 2 of 2 · door 1 of 1 · window 1 of 1 · bed 2 of 2 6 of 6 8.3 · 50.0 1 of 40 1" in page.text


def test_a_page_without_entities_says_so() -> None:
    one = comparison("modules", "reference") | {"geometry": None}
    page = Page(render(result(rung("reference"), rung("modules", one, one))))
    assert "No text of this scene has an entity" in page.text
    assert "No text of this scene" not in Page(render(result(rung("reference")))).text
