"""Quantities by kind, and the worst of each."""

from __future__ import annotations

import math
from typing import Any

from export.parity.report.text import as_float

Comparison = dict[str, Any]
Difference = dict[str, Any]

# By the start of a quantity's name, in the order in which they are computed.
KINDS = {"table": "tables", "point tokens": "point tokens", "keys": "keys", "values": "values", "logits": "logits"}
OTHER = "other"


def kind_of(quantity: str) -> str:
    """E.g. "keys" of "keys of the prompt"."""
    return next((kind for start, kind in KINDS.items() if quantity.startswith(start)), OTHER)


def comparisons(rung: dict[str, Any]) -> list[Comparison]:
    """Against the rung below, then against the reference; once where the rung below is the reference."""
    below, reference = rung["below"], rung["reference"]
    if below is not None and reference is not None and below["against"] == reference["against"]:
        return [below]
    return [comparison for comparison in (below, reference) if comparison is not None]


def kinds_of(scene: dict[str, Any]) -> list[str]:
    """Those that were compared in a scene."""
    all_differences = (d for rung in scene["rungs"] for c in comparisons(rung) for d in c["differences"])
    found = {kind_of(difference["quantity"]) for difference in all_differences}
    return [kind for kind in (*KINDS.values(), OTHER) if kind in found]


def worst_of(comparison: Comparison, kind: str) -> Difference | None:
    """The largest error of a kind; one that is not a number is larger than any."""
    found = [difference for difference in comparison["differences"] if kind_of(difference["quantity"]) == kind]
    return max(found, key=_badness, default=None)


def _badness(difference: Difference) -> tuple[bool, bool, float]:
    error = as_float(difference["error"])
    return not difference["within"], math.isnan(error), 0.0 if math.isnan(error) else error
