"""Counts, F1, means and issues; and scores that the original evaluation gave."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SceneError
from runtime.evaluation import THRESHOLDS, Count, SceneScore, Score, count_classes, score_scene
from runtime.evaluation import score as module
from runtime.evaluation.score import mean_score
from runtime.layout import Bbox, Door, Layout, Wall, parse_layout

MAPPING = {name: name for name in ("bed", "sofa", "chair", "dining table")} | {"bunk bed": "bed"}
RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))
ROOM = """\
wall_0=Wall(0,0,0,4,0,0,2.5,0.1)
wall_1=Wall(4,0,0,4,3,0,2.5,0.1)
door_0=Door(wall_0,1,0,1,0.9,2)
window_0=Window(wall_1,4,1,1.5,1,1)
bbox_0=Bbox(bunk_bed,1,1,0.5,0,2,1.5,0.5)
bbox_1=Bbox(dining_table,3,1,0.5,0.3,2,1.5,0.5)"""


def f1(score: SceneScore) -> dict[str, list[float]]:
    return {name: [count.f1 for count in counts] for name, counts in score.counts.items()}


@pytest.mark.parametrize("scene", RECORDED)
def test_scores_of_the_original(scene: dict[str, Any]) -> None:
    """Random scenes (half metres, bins of 25 mm, any number), scored once by SpatialLM's own evaluation."""
    predicted, truth = (parse_layout("\n".join(scene[side])) for side in ("predicted", "truth"))
    assert f1(score_scene("a", predicted, truth, MAPPING)) == scene["f1"]


def test_the_recorded_scores_say_something() -> None:
    values = {value for scene in RECORDED for pair in scene["f1"].values() for value in pair}
    assert len(values) >= 10
    assert any(pair[0] != pair[1] for scene in RECORDED for pair in scene["f1"].values())


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (Count(4, 2, 2), 2 / 3),
        (Count(3, 3, 3), 1.0),
        (Count(3, 3, 0), 0.0),
        (Count(0, 3, 0), 0.0),
        (Count(3, 0, 0), 0.0),
        (Count(0, 0, 0), 0.0),
        (Count(5, 4, 1), 2 / 9),
    ],
)
def test_f1(count: Count, expected: float) -> None:
    assert count.f1 == pytest.approx(expected)


def test_a_layout_is_its_own_truth() -> None:
    room = parse_layout(ROOM)
    for strict in (False, True):
        score = score_scene("a", room, room, MAPPING, strict=strict)
        assert f1(score) == {key: [1.0, 1.0] for key in ("wall", "door", "window", "bed", "dining table")}
        assert score.issues == ()


def test_an_empty_side_scores_nothing_but_counts() -> None:
    room = parse_layout(ROOM)
    for one, other in ((room, Layout()), (Layout(), room)):
        score = score_scene("a", one, other, MAPPING)
        assert set(f1(score)) == {"wall", "door", "window", "bed", "dining table"}
        assert {value for pair in f1(score).values() for value in pair} == {0.0}
    assert score_scene("a", Layout(), Layout(), MAPPING).counts == {}


def test_thresholds_are_independent() -> None:
    """Two predictions of one bed, at IoU 0.3 and 0.4: one of them finds it at 0.25, none at 0.5."""
    truth = parse_layout("bbox_0=Bbox(bed,0,0,0,0,1,1,1)")
    predicted = parse_layout("bbox_0=Bbox(bed,0,0,0,0,1,0.3,1)\nbbox_1=Bbox(bed,0,0,0,0,1,0.4,1)")
    low, high = score_scene("a", predicted, truth, MAPPING).counts["bed"]
    assert (low, high) == (Count(2, 1, 1), Count(2, 1, 0))


def scene(name: str, **counts: tuple[int, int, int]) -> SceneScore:
    return SceneScore(name, {key: (Count(*value), Count(value[0], value[1], 0)) for key, value in counts.items()}, ())


def test_the_mean_is_over_scenes_that_have_the_class() -> None:
    """Not over entities: a room with one wall weighs as much as one with a hundred."""
    scenes = (scene("a", wall=(1, 1, 1)), scene("b", wall=(100, 100, 0), bed=(0, 2, 0)), scene("c", bed=(2, 2, 2)))
    wall, bed, sofa = (mean_score(name, scenes) for name in ("wall", "bed", "sofa"))
    assert (wall.f1, wall.scenes, wall.totals) == ((0.5, 0.0), 2, (Count(101, 101, 1), Count(101, 101, 0)))
    assert (bed.f1, bed.scenes, bed.totals[0]) == ((0.5, 0.0), 2, Count(2, 4, 2))
    assert (sofa.f1, sofa.scenes, sofa.totals) == ((None, None), 0, (Count(0, 0, 0),) * 2)


def test_all_classes_are_listed_with_or_without_a_scene() -> None:
    score = Score((scene("a", wall=(1, 1, 1)),), strict_geometry=False)
    assert [it.name for it in score.layouts] == ["wall", "door", "window"]
    assert [len(it.f1) for it in score.objects] == [len(THRESHOLDS)] * 20


def test_strict_geometry_changes_the_two_quirks_and_nothing_else() -> None:
    """Every entity of the room, moved or resized so that one rule decides."""
    truth = parse_layout(ROOM)
    far = ROOM.replace("Wall(0,0,0,4,0,0,", "Wall(0,-9,0,4,-9,0,")  # on the far side of the plane: the sign
    tall = ROOM.replace("1,1,0.5,0,2,1.5,0.5)", "1,1,0.25,0,2,1.5,1)")  # z -0.25 .. 0.75 about 0.25 .. 0.75
    part = ROOM.replace("1,1,0.5,0,2,1.5,0.5)", "1,1,0.5,0,1,1.5,0.5)").replace("4,3,0,2.5", "4,2,0,2.5")
    for text, changed in ((far, {"wall"}), (tall, {"bed"}), (part, set())):
        lenient, strict = (f1(score_scene("a", parse_layout(text), truth, MAPPING, strict=it)) for it in (False, True))
        assert {name for name in lenient if lenient[name] != strict[name]} == changed
    assert f1(score_scene("a", parse_layout(far), truth, MAPPING))["wall"] == [1.0, 1.0]
    assert f1(score_scene("a", parse_layout(far), truth, MAPPING, strict=True))["wall"] == [0.5, 0.5]
    assert f1(score_scene("a", parse_layout(tall), truth, MAPPING))["bed"] == [0.0, 0.0]  # 0.25 of 1.25 m: 0.2
    assert f1(score_scene("a", parse_layout(tall), truth, MAPPING, strict=True))["bed"] == [1.0, 1.0]


def test_what_could_not_be_scored_is_told_by_side() -> None:
    predicted = (
        "wall_0=Wall(0,0,0,4,0,0,0,0.1)\nwall_1=Wall(1,1,0,1,1,0,2,0.1)\ndoor_0=Door(wall_1,1,0,1,1,2)\nnonsense\n"
        "wall_2=Wall(0,0,0,nan,0,0,2,0)\nbbox_0=Bbox(cat,1,1,1,0,1,1,1)\nbbox_1=Bbox(cat,1,1,1,0,1,1,1)"
    )
    score = score_scene("a", parse_layout(predicted), parse_layout(ROOM), MAPPING)
    assert score.counts["wall"][0] == Count(1, 2, 0)
    assert "door" in score.counts
    assert score.counts["door"][0].predicted == 0
    assert [it.split(":")[0] for it in score.issues] == ["prediction"] * 5
    lines, finite, extent, area, boxes = score.issues
    assert "lines that could not be used: 1; line 4: 'nonsense' is no known entity" in lines
    assert finite.endswith("with a number that is not finite: wall_2")
    assert extent.endswith("left out: 3")
    assert area.endswith("no area, so it overlaps nothing: wall_0")
    assert boxes.endswith("boxes left out, since the mapping gives them no scored class: cat (2)")


def test_issues_of_the_ground_truth_name_it() -> None:
    flat = parse_layout("wall_3=Wall(0,0,0,4,0,0,0,0.1)")
    assert score_scene("a", parse_layout(ROOM), flat, MAPPING).issues == (
        "ground truth: no area, so it overlaps nothing: wall_3",
    )


def test_too_many_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAIRS", 3)
    room = parse_layout(ROOM)
    with pytest.raises(SceneError, match=r"Scene 'a' has 2 predictions of class 'wall' and 2 in the ground truth"):
        score_scene("a", room, room, MAPPING)


ANY = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, 1e-7, 1e20, 1e200, 1.7e308, -1.0, math.inf, math.nan]))


def layouts() -> st.SearchStrategy[Layout]:
    walls = st.builds(Wall, st.just(0), *[ANY] * 8)
    doors = st.builds(Door, st.just(0), st.just(0), *[ANY] * 5)
    boxes = st.builds(Bbox, st.just(0), st.sampled_from(["bed", "cat", "", "\0"]), *[ANY] * 7)
    parts = (st.lists(it, min_size=least, max_size=3).map(tuple) for it, least in ((walls, 1), (doors, 0), (boxes, 0)))
    return st.builds(lambda walls, doors, boxes: Layout(walls, doors, (), boxes), *parts)


@pytest.mark.filterwarnings("error")
@settings(max_examples=300, deadline=None)
@given(layouts(), layouts(), st.booleans())
def test_no_number_ends_the_run(predicted: Layout, truth: Layout, strict: bool) -> None:
    score = score_scene("a", predicted, truth, MAPPING, strict=strict)
    for counts in score.counts.values():
        for count in counts:
            assert 0 <= count.true_positives <= min(count.predicted, count.truth)


def test_classes_as_the_layouts_name_them() -> None:
    predicted = parse_layout(ROOM + "\nbbox_2=Bbox(wall,1,1,1,0,1,1,1)\nbbox_3=Bbox(robot,2,2,1,0,1,1,1)")
    counts = count_classes("a", predicted, parse_layout(ROOM))
    assert {name: (count[0].predicted, count[0].truth, count[0].true_positives) for name, count in counts.items()} == {
        "wall": (2, 2, 2),
        "door": (1, 1, 1),
        "window": (1, 1, 1),
        "bunk bed": (1, 1, 1),
        "dining table": (1, 1, 1),
        "robot": (1, 0, 0),
        "wall (box)": (1, 0, 0),
    }
