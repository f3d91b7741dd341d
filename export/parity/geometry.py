"""The layouts that two rungs wrote: which entity is which, and how far apart they are.

This is information and no part of the verdict on the arithmetic: after a coin toss two faithful rungs may write other
entities, and a layout of which no number moved may hide an error that another scene shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from export.parity.pairing import Pairs, by_class, pair
from runtime.arrays import Array
from runtime.evaluation import THRESHOLDS, Count
from runtime.evaluation.matching import true_positives
from runtime.layout import Layout, parse_layout, undiscretize
from runtime.manifest import Manifest
from runtime.prompt import Tokenizer
from runtime.rung import Recording

SAME, MOVED, OTHER = "same", "moved", "other entities"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometryDifference:
    """Two layouts of one scene. Errors are over the entities found in both; None where there are none."""

    want: int  # entities
    got: int
    matched: int
    mean_mm: float | None  # of the endpoints: both ends of a wall, the centre of anything else
    largest_mm: float | None
    numbers: int  # positions, sizes and angles of the matched entities
    moved: int  # of these, how many lie in another bin
    largest_move: float  # in bins
    mean_iou: float | None
    least_iou: float | None
    f1: tuple[float, ...]  # of all entities, at each of `THRESHOLDS`
    classes: dict[str, tuple[int, int, int]]  # name -> wanted, got, matched

    @property
    def verdict(self) -> str:
        if not self.want == self.got == self.matched:
            return OTHER
        return MOVED if self.moved else SAME

    @property
    def reason(self) -> str:
        """One sentence for people."""
        if self.verdict == SAME:
            return f"all {self.got} entities have the same numbers."
        found = f"{self.matched} of {self.want} entities found again"
        found += f", {self.got - self.matched} new" if self.got > self.matched else ""
        f1 = " and ".join(f"{value:.2f}" for value in self.f1)
        at = " and ".join(f"{threshold:g}" for threshold in THRESHOLDS)
        if self.largest_mm is None or self.mean_mm is None:
            return f"{found}; F1 {f1} at IoU {at}."
        return (
            f"{found}; {self.moved} of {self.numbers} numbers moved, by at most {self.largest_move:g} "
            f"bin{'' if self.largest_move == 1 else 's'}; endpoints off by up to {self.largest_mm:.0f} mm "
            f"({self.mean_mm:.1f} in the mean); IoU at least {self.least_iou:.2f}; F1 {f1} at IoU {at}."
        )


@dataclass(frozen=True, slots=True)
class LayoutReader:
    """From the tokens of a recording to the layout that they spell, in bins."""

    tokenizer: Tokenizer
    manifest: Manifest

    def compare(self, want: Recording, got: Recording) -> GeometryDifference | None:
        """None where neither text has an entity. What one wrote beyond the other's last token is not looked at."""
        sides = [recording.arrays["free.tokens"].tolist() for recording in (want, got)]
        count = min((len(tokens) for tokens in sides if not self._ends(tokens)), default=max(map(len, sides)))
        there, here = (self._layout(tokens[:count]) for tokens in sides)
        return compare_layouts(there, here, self.manifest.encoder.num_bins)

    def _ends(self, tokens: Sequence[int]) -> bool:
        return bool(tokens) and tokens[-1] in self.manifest.generation.stop_token_ids

    def _layout(self, tokens: Sequence[int]) -> Layout:
        """Of a text that was cut off, the last line is left out: half of its last number may be missing."""
        text = self.tokenizer.decode(tokens)
        return parse_layout(text if self._ends(tokens) else text.rpartition("\n")[0])


def compare_layouts(want: Layout, got: Layout, num_bins: int) -> GeometryDifference | None:
    """Two layouts in bins; None where neither has an entity."""
    bins = by_class(want), by_class(got)
    metres = by_class(undiscretize(want, num_bins)), by_class(undiscretize(got, num_bins))
    names = list(dict.fromkeys([*bins[0], *bins[1]]))
    pairs = {name: pair(name, bins, metres) for name in names}
    return _together(pairs) if pairs else None


def _together(pairs: dict[str, Pairs]) -> GeometryDifference:
    wanted, found, matched = (sum(getattr(p, side) for p in pairs.values()) for side in ("want", "got", "matched"))
    errors = _joined(p.errors for p in pairs.values()) * 1e3  # mm
    moves, ious = _joined(p.moves for p in pairs.values()), _joined(p.ious for p in pairs.values())
    hits = [sum(true_positives(p.iou, threshold) for p in pairs.values()) for threshold in THRESHOLDS]
    return GeometryDifference(
        want=wanted,
        got=found,
        matched=matched,
        mean_mm=float(errors.mean()) if matched else None,
        largest_mm=float(errors.max()) if matched else None,
        numbers=len(moves),
        moved=int(np.count_nonzero(moves)),
        largest_move=float(moves.max(initial=0.0)),
        mean_iou=float(ious.mean()) if matched else None,
        least_iou=float(ious.min()) if matched else None,
        f1=tuple(Count(found, wanted, hit).f1 for hit in hits),
        classes={name: (p.want, p.got, p.matched) for name, p in pairs.items()},
    )


def _joined(arrays: Iterable[Array]) -> Array:
    return np.concatenate([*arrays])
