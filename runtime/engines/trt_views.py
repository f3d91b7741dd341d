"""What the engines of the contract show of compiled plans: one plan of prefill and decode, or one for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from runtime.bundle import PAST
from runtime.engines.record import SEGMENTED, SEPARATE, SHARED


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of a plan an engine shows."""

    plan: str
    profile: str
    letters: Mapping[str, str] = field(default_factory=dict)  # axes that have another letter in the contract
    feeds: Mapping[str, str] = field(default_factory=dict)  # inputs of the plan that are fed under another name
    fills: Mapping[str, int] = field(default_factory=dict)  # inputs of the plan that always hold this value
    keeps_contexts: bool = False  # one for each set of shapes: a captured graph is good for its own context only


ENCODER = View(plan="encoder", profile="encoder")
VIEWS: dict[str, dict[str, View]] = {
    SHARED: {
        "encoder": ENCODER,
        "prefill": View(
            plan="language_model", profile="prefill", letters={"T": "S"}, fills={PAST: 0, "past_length": 0}
        ),
        "decode": View(
            plan="language_model",
            profile="decode",
            feeds={"cos_1d": "cos", "cos_3d": "cos", "sin_1d": "sin", "sin_3d": "sin"},
            fills={"point_embeds": 0, "point_mask": 0, "lengths": 1},
            keeps_contexts=True,
        ),
    },
    SEPARATE: {
        "encoder": ENCODER,
        "prefill": View(plan="prefill", profile="prefill"),
        "decode": View(plan="decode", profile="decode", keeps_contexts=True),
    },
}  # by layout of the engines, then by graph


def view_of(layout: str, graph: str, plan: str) -> View:
    """What an engine shows of one of its plans."""
    if layout == SEGMENTED:  # as the separate plans, of fewer layers each
        return replace(VIEWS[SEPARATE][graph], plan=plan)
    return VIEWS[layout][graph]
