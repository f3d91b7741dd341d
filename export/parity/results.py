"""Comparisons put together: the verdict over rungs and scenes, as plain values for JSON and for the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from export.parity.checkpoints import CheckpointDifference, departure, describe
from export.parity.compare import Difference
from export.parity.geometry import GeometryDifference, LayoutReader
from export.parity.limits import Limits, limits_of
from export.parity.verdict import DIFFERENT, EQUAL, WITHIN, Comparison, judge
from runtime.rung import Recording

ORDER = (DIFFERENT, WITHIN, EQUAL)  # worst first


def scene_result(scene: str, recordings: Iterable[Recording], reader: LayoutReader) -> dict[str, Any]:
    """The comparisons of one scene's rungs: each with the one below it and with the lowest. Raises SceneError."""

    def against(other: Recording | None, recording: Recording) -> dict[str, Any] | None:
        if other is None:
            return None
        return to_json(judge(other, recording)) | {"geometry": geometry_to_json(reader.compare(other, recording))}

    rungs: list[dict[str, Any]] = []
    lowest: Recording | None = None
    below: Recording | None = None
    for recording in recordings:
        rungs.append(
            {
                "rung": recording.name,
                "facts": recording.facts,
                "below": against(below, recording),
                "reference": against(lowest, recording),
            }
        )
        lowest, below = lowest or recording, recording
    return {"scene": scene, "rungs": rungs}


def worst(verdicts: Iterable[str]) -> str:
    """The verdict over several; "equal" for none."""
    return min(verdicts, key=ORDER.index, default=EQUAL)


def verdict_of(scenes: Iterable[dict[str, Any]]) -> str:
    """Of all rungs against the reference, and of the checkpoints where they were compared."""
    found = []
    for scene in scenes:
        found += [rung["reference"]["verdict"] for rung in scene["rungs"] if rung["reference"] is not None]
        found += [checkpoints["verdict"] for checkpoints in scene.get("checkpoints", [])]
    return worst(found)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values."""
    first, tokens = comparison.departure, comparison.tokens
    return {
        "rung": comparison.rung,
        "against": comparison.against,
        "verdict": comparison.verdict,
        "reason": comparison.reason,
        "why": comparison.limits.why,
        "departure": None if first is None else first.place,
        "tokens": {**dataclasses.asdict(tokens), "coin_toss": tokens.coin_toss},
        "differences": [difference_to_json(difference) for difference in comparison.differences],
    }


def geometry_to_json(geometry: GeometryDifference | None) -> dict[str, Any] | None:
    """Plain values; None where no text has an entity."""
    if geometry is None:
        return None
    return {"verdict": geometry.verdict, "reason": geometry.reason, **dataclasses.asdict(geometry)}


def checkpoints_to_json(rung: str, differences: Sequence[CheckpointDifference], limits: Limits) -> dict[str, Any]:
    """Plain values: verdict, reason, and each checkpoint of each layer."""
    first = departure(differences)
    exact = limits == limits_of({"precision": "fp32"})
    return {
        "rung": rung,
        "layers": sorted({difference.layer for difference in differences if difference.layer is not None}),
        "verdict": DIFFERENT if first is not None else EQUAL if exact else WITHIN,
        "reason": describe(differences),
        "departure": None if first is None else first.place,
        "differences": [difference_to_json(difference) for difference in differences],
    }


def difference_to_json(difference: Difference) -> dict[str, Any]:
    """Plain values."""
    return {**dataclasses.asdict(difference), "place": difference.place, "within": difference.within}
