"""What the page shows, in the order in which it shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from export.parity.report.facts import Facts, Tolerance, facts_of, rung_names, scene_facts, tolerances
from export.parity.report.kinds import Comparison, Difference, comparisons, kind_of, kinds_of, worst_of
from export.parity.report.plots import Plot, Series, legend_mark, plot
from export.parity.report.text import VERDICTS, Verdict, as_float, worst_verdict


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """One row of a scene's table."""

    comparison: Comparison
    worst: list[Difference | None]  # by kind, in the order of the scene's kinds


@dataclass(frozen=True, slots=True)
class RungView:
    """A rung of a scene; the lowest has no comparisons. The verdict is that against the reference."""

    name: str
    verdict: Verdict | None
    comparisons: list[ComparisonView]


@dataclass(frozen=True, slots=True)
class SceneView:
    """A section of the page."""

    anchor: str
    name: str
    verdict: Verdict | None
    facts: list[tuple[str, Any]]
    kinds: list[str]
    rungs: list[RungView]
    legend: list[tuple[str, int, str]]  # name, number of its colour, mark
    plots: list[Plot]
    layouts: list[tuple[str, Comparison]]  # rung, and a comparison whose texts have entities
    checkpoints: list[Comparison]  # of the rotation, by rung, where they were compared
    bisection: dict[str, Any] | None  # of float32 islands, where they were sought

    def verdict_of(self, name: str) -> Verdict | None:
        """Of the rung of that name; None where the scene lacks it or it was compared with nothing."""
        return next((rung.verdict for rung in self.rungs if rung.name == name), None)


@dataclass(frozen=True, slots=True)
class PageView:
    """All of it."""

    verdict: Verdict
    result: dict[str, Any]
    departures: list[tuple[SceneView, Comparison]]
    compared: list[str]  # names of the rungs that were compared with another in some scene
    scenes: list[SceneView]
    tolerances: list[Tolerance]
    facts: Facts


def page_view(result: dict[str, Any]) -> PageView:
    """Arrange a ladder's result."""
    names = rung_names(result)
    scenes = [_scene_view(scene, f"scene-{i}", names) for i, scene in enumerate(result["scenes"], 1)]
    return PageView(
        verdict=VERDICTS[result["verdict"]],
        result=result,
        departures=[(scene, found) for scene in scenes for found in _departures(scene)],
        compared=[name for name in names if any(scene.verdict_of(name) for scene in scenes)],
        scenes=scenes,
        tolerances=tolerances(result),
        facts=facts_of(result),
    )


def _departures(scene: SceneView) -> list[Comparison]:
    """What a scene has to say in the header."""
    found = [departure for rung in scene.rungs if (departure := _departure(rung))]
    wrong = [checkpoints for checkpoints in scene.checkpoints if checkpoints["verdict"] == "different"]
    return [*found, *(checkpoints | {"against": "reference, checkpoints"} for checkpoints in wrong)]


def _departure(rung: RungView) -> Comparison | None:
    """Of a rung that differs from the reference: where it departs from the rung below says more, if it does."""
    if rung.verdict is None or rung.verdict.word != "different":
        return None
    return next(view.comparison for view in rung.comparisons if view.comparison["verdict"] == "different")


def _scene_view(scene: dict[str, Any], anchor: str, names: list[str]) -> SceneView:
    kinds = kinds_of(scene)
    rungs = [_rung_view(rung, kinds) for rung in scene["rungs"]]
    checkpoints: list[Comparison] = scene.get("checkpoints", [])
    words = [rung.verdict.word for rung in rungs if rung.verdict is not None]
    verdict = worst_verdict([*words, *(found["verdict"] for found in checkpoints)])
    shown = [rung for rung in scene["rungs"] if comparisons(rung)]
    legend = [(rung["rung"], names.index(rung["rung"]), legend_mark(names.index(rung["rung"]))) for rung in shown]
    facts, plots = scene_facts(scene), _plots(scene["scene"], anchor, shown, names)
    layouts = [(rung["rung"], found) for rung in shown for found in comparisons(rung) if found.get("geometry")]
    return SceneView(
        anchor,
        scene["scene"],
        verdict,
        facts,
        kinds,
        rungs,
        legend,
        plots,
        layouts,
        checkpoints,
        scene.get("bisection"),
    )


def _rung_view(rung: dict[str, Any], kinds: list[str]) -> RungView:
    views = [
        ComparisonView(comparison, [worst_of(comparison, kind) for kind in kinds]) for comparison in comparisons(rung)
    ]
    judged = rung["reference"] or rung["below"]
    return RungView(rung["rung"], None if judged is None else VERDICTS[judged["verdict"]], views)


def _plots(scene: str, anchor: str, rungs: list[dict[str, Any]], names: list[str]) -> list[Plot]:
    """By layer and by step; against the reference where a rung was compared with it."""
    against = [(rung["rung"], rung["reference"] or rung["below"]) for rung in rungs]
    found = []
    for kind, axis, wide in (("keys", "layer", False), ("values", "layer", False), ("logits", "step", True)):
        series = [_series(name, names.index(name), comparison, kind, axis) for name, comparison in against]
        if any(one.points for one in series):
            title = f"{kind.capitalize()}: error by {'layer' if axis == 'layer' else 'forced step'}"
            found.append(plot(f"{anchor}-{kind}", title, scene, axis, series, wide=wide))
    return found


def _series(name: str, color: int, comparison: Comparison, kind: str, axis: str) -> Series:
    """The worst error at each layer or step; logits after the prompt stand before step 0."""
    points: dict[int, float] = {}
    limits: dict[int, float] = {}
    for difference in comparison["differences"]:
        place = difference[axis] if axis == "layer" or difference[axis] is not None else -1
        if place is None or kind_of(difference["quantity"]) != kind:
            continue
        error, limits[place] = as_float(difference["error"]), as_float(difference["limit"])
        points[place] = _worse(points.get(place, error), error)
    return Series(name, color, sorted(points.items()), limits)


def _worse(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)
