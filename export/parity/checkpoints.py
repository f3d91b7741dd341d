"""The nine checkpoints of rotary attention, by the numbers that the reference prints under SPATIALLM_VERBOSE=1.

The reference turns point tokens in 3D, saves them, turns everything in 1D and restores them. A graph turns every token
once, by one table, and shows 1, 2, 6 and 9 (`export.passes.taps`); the others are derived here from what it shows, in
float32 and in the reference's order of operations. Without the 3D encoding there is nothing to save: 1, 6, 8, 9 exist.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.parity.compare import Difference, measure
from export.parity.limits import Limits
from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.rung.recording import Recording
from runtime.rung.taps import POINT_MASK

TITLES = {
    1: "after projection and head split",
    2: "3D table of the point tokens",
    3: "point tokens",
    4: "point tokens turned in 3D",
    5: "all tokens, point tokens turned in 3D",
    6: "1D table",
    7: "point tokens as saved",
    8: "all tokens turned in 1D",
    9: "as they enter attention",
}
TABLES = (2, 6)
Pair = dict[str, Array]  # query [X, H, D] and key [X, K, D], or cos and sin [X, D]; X is S, or P of point tokens


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint of one layer, float32."""

    tensors: Pair
    derived: bool = False  # not seen, but made from others


Checkpoints = Mapping[int, Checkpoint]  # by number, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDifference(Difference):
    """One tensor of a checkpoint; its place reads "checkpoint 4 (key) of layer 3"."""

    number: int
    derived: bool


@dataclass(frozen=True, slots=True)
class Taps:
    """What a graph with taps gave for one scene."""

    arrays: Mapping[str, Array]  # as `runtime.rung.taps.record_taps` names them
    spatial: bool  # whether point tokens have a 3D table

    @classmethod
    def of(cls, recording: Recording) -> Taps | None:
        """The taps of a recording, or None where it was made without. Raises SceneError where some are missing."""
        if POINT_MASK not in recording.arrays:
            return None
        taps = cls(recording.arrays, recording.facts.get("vlm_pe") is not None)
        _check_taps(recording)
        names = [f"tap{tap}.{kind}" for tap in TABLES for kind in ("cos", "sin")]
        names += [f"tap{t}.{kind}.{layer}" for layer in taps.layers for t in (1, 9) for kind in ("query", "key")]
        if not taps.layers or (missing := [name for name in names if name not in recording.arrays]):
            lacking = "any layer" if not taps.layers else missing[0]
            raise SceneError(f"{recording.name}: its recording has taps without {lacking}. Record it anew with --taps.")
        return taps

    @property
    def layers(self) -> list[int]:
        """Tapped layers in order."""
        names = (name for name in self.arrays if name.startswith("tap1.key."))
        return sorted(int(name.rpartition(".")[2]) for name in names)

    def checkpoints(self, layer: int) -> dict[int, Checkpoint]:
        """All that exist in a layer."""
        mask, table = self.arrays[POINT_MASK], self._pair("tap2.{}", "cos", "sin")
        first, last = (self._pair(f"tap{tap}.{{}}.{layer}", "query", "key") for tap in (1, 9))
        if not self.spatial:
            seen = {1: Checkpoint(first), 6: Checkpoint(table), 9: Checkpoint(last)}
            return dict(sorted({**seen, 8: Checkpoint(_turned(first, table), derived=True)}.items()))
        # Text turns by the one table; where point tokens stand, the 1D table is fed and never read.
        fed = self._pair("tap6.{}", "cos", "sin")
        table_1d = {name: np.where(mask[:, None], fed[name], table[name]) for name in table}
        table_3d = {name: rows[mask] for name, rows in table.items()}
        seen = {1: Checkpoint(first), 2: Checkpoint(table_3d), 6: Checkpoint(table_1d), 9: Checkpoint(last)}
        return dict(sorted({**seen, **derive(first, mask, table_3d, table_1d)}.items()))

    def _pair(self, name: str, *kinds: str) -> Pair:
        return {kind: self.arrays[name.format(kind)] for kind in kinds}


def _check_taps(recording: Recording) -> None:
    """Raises SceneError for taps that are not of the recording's own prompt and layers."""
    for name, array in recording.arrays.items():
        if name.startswith("tap") and not _fits(name, array, recording.arrays["prefill.rows"].shape):
            raise SceneError(
                f"{recording.name}: its recording has {name} as {array.dtype}{list(array.shape)}, which does not fit "
                f"its prompt and layers. Record it anew with --taps."
            )


def _fits(name: str, array: Array, rows: tuple[int, ...]) -> bool:
    """Whether a tap has the positions, the layers and the head size of the cache rows, [S, 2L, K, D]."""
    positions, both, _, size = rows
    if name == POINT_MASK:
        return array.dtype == bool and array.shape == (positions,)
    if array.dtype != np.float32 or not array.ndim or (array.shape[0], array.shape[-1]) != (positions, size):
        return False
    if name.startswith(tuple(f"tap{tap}." for tap in TABLES)):
        return array.ndim == 2
    return array.ndim == 3 and name.rpartition(".")[2] in map(str, range(both // 2))


def derive(first: Pair, mask: Array, table_3d: Pair, table_1d: Pair) -> dict[int, Checkpoint]:
    """Checkpoints 3, 4, 5, 7 and 8 from 1, 2 and 6; `mask` [S] says where point tokens stand."""
    points = {name: x[mask] for name, x in first.items()}
    turned = _turned(points, table_3d)
    whole = _written(first, mask, turned)
    saved = {name: x[mask] for name, x in whole.items()}
    pairs = {3: points, 4: turned, 5: whole, 7: saved, 8: _turned(whole, table_1d)}
    return {number: Checkpoint(pair, derived=True) for number, pair in pairs.items()}


def restored(checkpoints: Checkpoints, mask: Array) -> Checkpoint:
    """Checkpoint 9 as the reference makes it: 8, with 7 written back where point tokens stand."""
    after = checkpoints[8].tensors
    pair = _written(after, mask, checkpoints[7].tensors) if 7 in checkpoints else after
    return Checkpoint(pair, derived=True)


def compare_taps(want: Taps, got: Taps, limits: Limits) -> list[CheckpointDifference]:
    """Layer by layer, those that both have. Raises SceneError where they have none in common."""
    layers = [layer for layer in want.layers if layer in got.layers]
    if not layers:
        raise SceneError(f"one recording has taps of layers {want.layers}, the other of {got.layers}: none in common.")
    found = (compare_layer(layer, want.checkpoints(layer), got.checkpoints(layer), limits) for layer in layers)
    return [difference for differences in found for difference in differences]


def compare_layer(layer: int, want: Checkpoints, got: Checkpoints, limits: Limits) -> Iterator[CheckpointDifference]:
    """One by one in the order of their numbers. Raises SceneError where the two do not have the same."""
    if list(want) != list(got):
        raise SceneError(
            f"layer {layer}: checkpoints {list(want)} stand against {list(got)}. "
            f"Record both with one scene and one position encoding."
        )
    for number, checkpoint in want.items():
        limit = limits.tables if number in TABLES else limits.rows_of(layer)
        for name, tensor in checkpoint.tensors.items():
            measured = measure(f"checkpoint {number} ({name})", tensor, got[number].tensors[name], limit, layer=layer)
            derived = checkpoint.derived or got[number].derived
            yield CheckpointDifference(**dataclasses.asdict(measured), number=number, derived=derived)


def departure(differences: Iterable[CheckpointDifference]) -> CheckpointDifference | None:
    """The first that is off by more than precision explains."""
    return next((difference for difference in differences if not difference.within), None)


def describe(differences: Sequence[CheckpointDifference]) -> str:
    """One sentence for people."""
    layers = sorted({difference.layer for difference in differences if difference.layer is not None})
    numbers = sorted({difference.number for difference in differences})
    if (first := departure(differences)) is None:
        return (
            f"checkpoints {', '.join(map(str, numbers))} agree in {len(layers)} layer{'s' if len(layers) != 1 else ''}."
        )
    derived = ", derived" if first.derived else ""
    return (
        f"first departs at {first.place}, {TITLES[first.number]}{derived}: "
        f"off by {first.error:.2g}, at most {first.limit:.2g} was expected."
    )


def _turned(pair: Pair, table: Pair) -> Pair:
    """x * cos + rotate_half(x) * sin over [X, heads, D] with tables [X, D]."""
    cos, sin = table["cos"][:, None], table["sin"][:, None]
    half = cos.shape[-1] // 2
    halves = {name: np.concatenate([-x[..., half:], x[..., :half]], axis=-1) for name, x in pair.items()}
    return {name: x * cos + halves[name] * sin for name, x in pair.items()}


def _written(pair: Pair, mask: Array, points: Pair) -> Pair:
    """A copy in which the rows of point tokens are exchanged."""
    copies = {name: x.copy() for name, x in pair.items()}
    for name, copy in copies.items():
        copy[mask] = points[name]
    return copies
