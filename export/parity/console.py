"""The ladder's result in words, and as one line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any


def lines(result: dict[str, Any]) -> Iterator[str]:
    """For people: scenes, rungs, verdict."""
    for scene in result["scenes"]:
        yield f"{scene['scene']}"
        for rung in scene["rungs"]:
            yield from (f"  {line}" for line in _rung(rung))
        for found in scene.get("checkpoints", []):
            yield f"  checkpoints of {found['rung']}: {found['verdict']}; {found['reason']}"
        if "bisection" in scene:
            yield f"  {scene['bisection']['precision']}: {scene['bisection']['reason']}"
    yield f"Verdict: {result['verdict']}."


def _rung(rung: dict[str, Any]) -> Iterator[str]:
    """A rung in words: against the one below, and, where that is another, against the reference."""
    below, reference = rung["below"], rung["reference"]
    if reference is None:
        yield f"{rung['rung']}: the reference"
        return
    yield f"{rung['rung']}: {reference['verdict']}; {reference['reason']}"
    yield from _layout(reference)
    if below["against"] != reference["against"]:
        yield f"    against {below['against']}: {below['verdict']}; {below['reason']}"
        yield from _layout(below)


def _layout(comparison: dict[str, Any]) -> Iterator[str]:
    if (geometry := comparison["geometry"]) is not None:
        yield f"    layout: {geometry['verdict']}; {geometry['reason']}"


def without_differences(result: dict[str, Any]) -> dict[str, Any]:
    """The same without the single quantities, which are many."""

    def short(comparison: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if comparison is None else {k: v for k, v in comparison.items() if k != "differences"}

    scenes = [
        scene
        | {"rungs": [rung | {k: short(rung[k]) for k in ("below", "reference")} for rung in scene["rungs"]]}
        | ({"checkpoints": [short(found) for found in scene["checkpoints"]]} if "checkpoints" in scene else {})
        for scene in result["scenes"]
    ]
    return {**result, "scenes": scenes}


def strict(result: dict[str, Any]) -> str:
    """One line of JSON that every reader takes: a number that is none, or not finite, becomes null."""
    return json.dumps(_finite(result), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
