"""Which float32 islands a half-precision language model needs on a scene: the smallest set of parts, then of layers.

Each trial is a prefill by `export.parity.rounding` against the float32 modules, within the limits of the precision.
Parts are left out of "all in float32" one by one, the dearest first, as long as that stays within the limits; then the
layers in which the remaining ones must stand are bisected from both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from export.checkpoint import Checkpoint
from export.modules import LanguageModel, Prefill
from export.parity.compare import Difference, measure
from export.parity.limits import LIMITS, Limits
from export.parity.rounding import GRAPH, PARTS, Islands, RoundedPrefill
from runtime.arrays import Array

Feeds = dict[str, Array]  # of the prefill graph, point embeddings in float32


@dataclass(frozen=True, slots=True)
class Trial:
    """What a set of islands gives."""

    islands: Islands
    differences: Sequence[Difference]

    @property
    def departure(self) -> Difference | None:
        return next((difference for difference in self.differences if not difference.within), None)

    @property
    def worst(self) -> Difference:
        """The one nearest to its limit, or furthest beyond it."""
        return max(self.differences, key=lambda one: np.nan_to_num(one.error / one.limit, nan=np.inf))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """All trials, and what follows from them."""

    precision: str
    layers: int
    bare: Trial  # nothing in float32
    graph: Trial  # the islands that the graphs have
    whole: Trial  # all arithmetic in float32
    alone: Sequence[Trial]  # each part by itself, everywhere
    mending: Trial | None  # the smallest set; None where none is needed or none suffices

    @property
    def reason(self) -> str:
        """For people."""
        if self.bare.departure is None:
            return f"no island is needed: all in {self.precision} stays within the limits on this scene."
        if (left := self.whole.departure) is not None:
            return (
                f"no island mends it: with all arithmetic in float32 the rounding of weights, point tokens and cache "
                f"alone is off by {left.error:.2g} at {left.place}, at most {left.limit:.2g} was expected."
            )
        assert self.mending is not None
        return f"{self._named(self.mending.islands)} must be in float32. {self._own()}"

    def _own(self) -> str:
        kept = f"What the graphs keep in float32 ({', '.join(part for part in PARTS if part in GRAPH)})"
        if (left := self.graph.departure) is not None:
            return f"{kept} does not suffice: it first departs at {left.place}."
        return f"{kept} suffices: an engine that departs lost an island or has another fault."

    def _named(self, islands: Islands) -> str:
        parts = " and ".join(part for part in PARTS if part in islands.parts)
        first, last = islands.first, islands.last - 1
        if (first, last) == (0, self.layers):
            return f"{parts} of all layers"
        names = [f"layer {layer}" if layer < self.layers else "the head" for layer in (first, last)]
        return f"{parts} of {names[0]}" if first == last else f"{parts} of {names[0]} to {names[1]}"


def bisect(
    checkpoint: Checkpoint, feeds: Feeds, precision: str, attention: str, note: Callable[[str], None]
) -> Bisection:
    """`note` hears of every trial."""
    trials = _Trials(checkpoint, feeds, precision, attention, note)
    bare, graph, whole = (trials.run(parts) for parts in (frozenset[str](), GRAPH, frozenset(PARTS)))
    alone = [trials.run(frozenset({part})) for part in PARTS]
    needed = bare.departure is not None and whole.departure is None
    mending = _layers(trials, _parts(trials, alone)) if needed else None
    return Bisection(
        precision=precision, layers=trials.layers, bare=bare, graph=graph, whole=whole, alone=alone, mending=mending
    )


def _parts(trials: _Trials, alone: Sequence[Trial]) -> frozenset[str]:
    """One part where one is enough; else what cannot be left out."""
    if (single := next((trial for trial in alone if trial.departure is None), None)) is not None:
        return single.islands.parts
    parts = frozenset(PARTS)
    for part in reversed(PARTS):
        if trials.run(parts - {part}).departure is None:
            parts -= {part}
    return parts


def _layers(trials: _Trials, parts: frozenset[str]) -> Trial:
    """The shortest run of layers that suffices, supposing that more of them are never worse."""
    low, high = 0, trials.layers  # the largest first layer with which it still suffices
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if trials.within(parts, middle, trials.layers + 1) else (low, middle - 1)
    first = low
    low, high = first + 1, trials.layers + 1  # the smallest end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if trials.within(parts, first, middle) else (middle + 1, high)
    return trials.run(parts, first, low)


class _Trials:
    """Runs and remembers."""

    def __init__(
        self, checkpoint: Checkpoint, feeds: Feeds, precision: str, attention: str, note: Callable[[str], None]
    ) -> None:
        config, tensors = checkpoint.config, checkpoint.float_tensor
        self.layers = config.language_model.layers
        self._limits, self._note = LIMITS[precision], note
        self._feeds = {name: torch.from_numpy(array) for name, array in feeds.items()}
        note("float32")
        with torch.inference_mode():
            self._want = Prefill(LanguageModel(config, tensors), attention)(**self._feeds)
        self._module = RoundedPrefill(config, tensors, precision, attention)
        self._seen: dict[Islands, Trial] = {}

    def run(self, parts: frozenset[str], first: int = 0, last: int | None = None) -> Trial:
        islands = Islands(parts, first, self.layers + 1 if last is None else last)
        if islands not in self._seen:
            self._note(f"float32: {', '.join(part for part in PARTS if part in parts) or 'nothing'}")
            self._module.islands = islands
            self._seen[islands] = Trial(islands, _differences(self._want, self._module(**self._feeds), self._limits))
        return self._seen[islands]

    def within(self, parts: frozenset[str], first: int, last: int) -> bool:
        return self.run(parts, first, last).departure is None


def _differences(want: dict[str, Any], got: dict[str, Any], limits: Limits) -> list[Difference]:
    """Rows by layer, then logits, as the ladder compares them."""
    found, layers = [], (len(want) - 1) // 2
    for layer in range(layers):
        for kind in ("key", "value"):
            wanted, rows = (side[f"{kind}.{layer}"].numpy() for side in (want, got))
            found.append(measure(f"{kind}s of the prompt", wanted, rows, limits.rows_of(layer), layer=layer))
    wanted, logits = (side["logits"].numpy() for side in (want, got))
    return [*found, measure("logits after the prompt", wanted, logits, limits.logits_behind(layers))]


def bisection_to_json(found: Bisection) -> dict[str, Any]:
    """Plain values: every trial that says something by itself, and the sentence."""
    named = [("nothing", found.bare), ("what the graphs keep", found.graph), ("everything", found.whole)]
    named += [(next(iter(trial.islands.parts)), trial) for trial in found.alone]
    mending = found.mending
    return {
        "precision": found.precision,
        "reason": found.reason,
        "needed": found.bare.departure is not None,
        "graph_suffices": found.graph.departure is None,
        "mending": None if mending is None else _islands_to_json(mending.islands),
        "trials": [{"float32": name, **_trial_to_json(trial)} for name, trial in named],
    }


def _islands_to_json(islands: Islands) -> dict[str, Any]:
    """`layers` are the first and the last; the head counts as one behind the last layer."""
    return {
        "parts": [part for part in PARTS if part in islands.parts],
        "layers": [islands.first, islands.last - 1],
    }


def _trial_to_json(trial: Trial) -> dict[str, Any]:
    first, worst = trial.departure, trial.worst
    return {
        "islands": _islands_to_json(trial.islands),
        "within": first is None,
        "departure": None if first is None else first.place,
        "worst": {"place": worst.place, "error": worst.error, "limit": worst.limit},
    }
