"""Tolerances, versions, devices and digests, gathered from all rungs of all scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from export.parity.report.kinds import KINDS, OTHER, comparisons, kind_of
from export.parity.report.text import fact

OF_THE_SCENE = {"voxels": "voxels", "positions": "positions of the prompt", "scene_sha256": "SHA-256"}
ELSEWHERE = {"rung", "scene", "digests", *OF_THE_SCENE}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One reason, the limits that follow from it, and the rungs that were judged by them."""

    why: str
    rungs: list[str]
    limits: list[tuple[str, float, float]]  # by kind: of the first layers, and of the last


@dataclass(frozen=True, slots=True)
class Facts:
    """Of the rungs, whatever the scene."""

    rungs: list[str]
    rows: list[tuple[str, list[str], bool]]  # fact, its value for each rung, whether all are the same
    digests: list[tuple[str, str, list[str]]]  # weights, SHA-256, rungs


def rung_names(result: dict[str, Any]) -> list[str]:
    """In the order of the ladder."""
    return list(dict.fromkeys(rung["rung"] for rung in _rungs(result)))


def scene_facts(scene: dict[str, Any]) -> list[tuple[str, Any]]:
    """The same for each of its rungs, so that the first tells."""
    facts = scene["rungs"][0]["facts"] if scene["rungs"] else {}
    return [(label, facts[name]) for name, label in OF_THE_SCENE.items() if name in facts]


def tolerances(result: dict[str, Any]) -> list[Tolerance]:
    """In the order in which the rungs were judged by them."""
    found: dict[str, Tolerance] = {}
    for rung in _rungs(result):
        for comparison in comparisons(rung):
            limits: dict[str, list[float]] = {}
            for one in comparison["differences"]:
                limits.setdefault(kind_of(one["quantity"]), []).append(one["limit"])
            ordered = [
                (kind, min(limits[kind]), max(limits[kind])) for kind in (*KINDS.values(), OTHER) if kind in limits
            ]
            tolerance = found.setdefault(comparison["why"], Tolerance(comparison["why"], [], ordered))
            if rung["rung"] not in tolerance.rungs:
                tolerance.rungs.append(rung["rung"])
    return list(found.values())


def facts_of(result: dict[str, Any]) -> Facts:
    """A rung that has two values in two scenes shows both."""
    names = rung_names(result)
    labels = dict.fromkeys(name for rung in _rungs(result) for name in rung["facts"] if name not in ELSEWHERE)
    rows = []
    for label in labels:
        values = [_values(result, name, label) for name in names]
        rows.append((label, values, len(set(values)) == 1))
    return Facts(names, rows, _digests(result))


def _values(result: dict[str, Any], name: str, label: str) -> str:
    rungs = [rung for rung in _rungs(result) if rung["rung"] == name and label in rung["facts"]]
    return "; ".join(dict.fromkeys(fact(rung["facts"][label]) for rung in rungs))


def _digests(result: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    users: dict[tuple[str, str], list[str]] = {}
    for rung in _rungs(result):
        for item in (rung["facts"].get("digests") or {}).items():
            names = users.setdefault(item, [])
            if rung["rung"] not in names:
                names.append(rung["rung"])
    return [(weights, digest, names) for (weights, digest), names in users.items()]


def _rungs(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (rung for scene in result["scenes"] for rung in scene["rungs"])
