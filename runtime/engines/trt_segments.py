"""Prefill or decode in several plans, a few layers each: one engine of the contract that runs them one after another.

The residual stream goes from plan to plan in memory that the engine keeps; all read the same cache; each writes its
part of the new rows. On one stream that is the whole language model, and a captured step holds all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from runtime.bundle import KEYS, ROWS, VALUES
from runtime.engines.contract import Tensor, TensorSpec, check_feeds
from runtime.engines.cuda.memory import DeviceTensor, on_device
from runtime.engines.trt_context import Shape
from runtime.engines.trt_engine import TrtEngine

if TYPE_CHECKING:  # the back end makes these engines
    from runtime.engines.trt import TrtBackend

ALIGNMENT = 256  # bytes to which TensorRT wants the memory of a border tensor aligned
HEADS = 2  # axis of cache rows [rows, B, heads, D]
ROW_LETTERS = {"prefill": "S", "decode": "T"}


class SegmentedEngine:
    """Plans of consecutive layers, of prefill or decode."""

    def __init__(self, name: str, parts: Sequence[TrtEngine], backend: TrtBackend) -> None:
        self.name, self.parts, self._backend = name, list(parts), backend
        self._row_letter = ROW_LETTERS[name]
        self._keeps = parts[0].view.keeps_contexts  # memory between the parts, as captured steps need
        self._kept: dict[tuple[str, Shape], DeviceTensor] = {}
        handed = {name for part in parts for name in part.outputs}
        self.inputs = {n: spec for part in parts for n, spec in part.inputs.items() if n not in handed}
        self._layers = _places(parts)  # by part: first key head and first value head in a row
        self.outputs = {"logits": parts[-1].outputs["logits"], ROWS: self._rows_spec()}
        self.limits = {
            axis: min(part.limits[axis] for part in parts if axis in part.limits)
            for axis in {axis for part in parts for axis in part.limits}
        }

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        given = dict(outputs or {})
        check_feeds(self, feeds, given)
        sizes = self._sizes(feeds)
        rows = on_device(given[ROWS]) if ROWS in given else self._empty(self.outputs[ROWS], sizes)
        handed: dict[str, Tensor] = dict(feeds)
        for part, places in zip(self.parts, self._layers, strict=True):
            targets = dict(self._targets(part, places, rows, sizes)) | {n: given[n] for n in part.outputs if n in given}
            handed |= part.run({name: handed[name] for name in part.inputs}, targets)
            for name, first in places.items():
                if not _within(rows, on_device(handed[name])):
                    self._backend.copy_heads(handed[name], rows, first)
        return {"logits": handed["logits"], ROWS: rows}

    def try_once(self) -> None:
        """Run on zeros of the smallest shapes, so that a kernel missing on this GPU shows now. Raises EngineError."""
        smallest: dict[str, Shape] = {}
        for part in self.parts:
            smallest |= part.smallest
        self.run({name: self._backend.zeros(smallest[name], spec.dtype) for name, spec in self.inputs.items()})
        self._backend.synchronize()

    def close(self) -> None:
        self._kept.clear()
        for part in self.parts:
            part.close()

    def _sizes(self, feeds: Mapping[str, Tensor]) -> dict[str, int]:
        """Sequences and rows of each, by letter."""
        table = feeds["cos" if "cos" in feeds else "cos_3d"]
        return {"B": table.shape[0], self._row_letter: table.shape[1]}

    def _rows_spec(self) -> TensorSpec:
        like = self.parts[0].outputs[KEYS]
        specs = [part.outputs[name] for part in self.parts for name in (KEYS, VALUES) if name in part.outputs]
        heads = sum(int(spec.shape[HEADS]) for spec in specs)
        return TensorSpec(ROWS, like.dtype, (self._row_letter, "B", heads, like.shape[-1]))

    def _targets(
        self, part: TrtEngine, places: Mapping[str, int], rows: DeviceTensor, sizes: Mapping[str, int]
    ) -> Iterator[tuple[str, DeviceTensor]]:
        """Memory for what a part gives to the others: right in the rows where its part of them is one piece."""
        for name, spec in part.outputs.items():
            piece = _piece(rows, places[name], int(spec.shape[HEADS])) if name in places else None
            if name not in self.outputs:
                yield name, piece or self._between(spec, sizes)

    def _between(self, spec: TensorSpec, sizes: Mapping[str, int]) -> DeviceTensor:
        """Memory between two parts; keys and values of all parts share theirs, for they are copied at once."""
        batch, rows = sizes["B"], sizes[self._row_letter]  # a plan names no axes of its outputs
        heads = (int(size) for size in spec.shape[2:])
        shape = (rows, batch, *heads) if spec.name in (KEYS, VALUES) else (batch, rows, *heads)
        if not self._keeps:
            return self._backend.empty(shape, spec.dtype)
        if (spec.name, shape) not in self._kept:
            self._kept[spec.name, shape] = self._backend.empty(shape, spec.dtype)
        return self._kept[spec.name, shape]

    def _empty(self, spec: TensorSpec, sizes: Mapping[str, int]) -> DeviceTensor:
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        return self._backend.empty(shape, spec.dtype)


def _places(parts: Sequence[TrtEngine]) -> list[dict[str, int]]:
    """Where each part's keys and values begin in a row, which holds the keys of all layers first; a head has none."""
    counts = [int(part.outputs[KEYS].shape[HEADS]) if KEYS in part.outputs else 0 for part in parts]
    starts = [sum(counts[:place]) for place in range(len(counts))]
    return [
        {KEYS: start, VALUES: sum(counts) + start} if count else {} for start, count in zip(starts, counts, strict=True)
    ]


def _piece(rows: DeviceTensor, first: int, heads: int) -> DeviceTensor | None:
    """Heads of the rows as they lie there, where that is one piece and TensorRT takes its address."""
    if rows.shape[:HEADS] != (1, 1):
        return None
    piece = rows.heads(first, heads)
    return piece if piece.address % ALIGNMENT == 0 else None


def _within(whole: DeviceTensor, piece: DeviceTensor) -> bool:
    return whole.address <= piece.address < whole.address + whole.bytes
