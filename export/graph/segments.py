"""The language model's layers in consecutive segments, for compilers to which the whole is too much at a time.

TensorRT 8.6 had not compiled 24 layers in half precision after minutes that it takes for each four of them
(docs/LOG.md); segments are also built side by side. Between two of them flows the residual stream alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

SEGMENT_LAYERS = 4  # at most, in one segment


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers `first` to `last` - 1 of `layers`; none where a segment is the head alone."""

    first: int
    last: int
    layers: int
    head: bool  # whether logits go out, not the residual stream

    @property
    def begins(self) -> bool:
        """Whether token ids come in, not the residual stream."""
        return self.first == 0

    @property
    def before(self) -> str:
        """The residual stream that comes in."""
        return hidden_name(self.first)

    @property
    def after(self) -> str:
        """The residual stream that goes out."""
        return hidden_name(self.last)

    @property
    def range(self) -> range:
        return range(self.first, self.last)


def hidden_name(layer: int) -> str:
    """The residual stream before a layer, [B, rows, C]."""
    return f"hidden.{layer}"


def whole(layers: int) -> Segment:
    """All layers and the head."""
    return Segment(0, layers, layers, head=True)


def split(layers: int, most: int) -> list[Segment]:
    """As few segments as possible with at most `most` layers, of sizes that differ by one at most; then the head.

    The head has as many weights as several layers, and the time to compile a segment grows with its weights.
    """
    count = -(-layers // most)  # in whole numbers: `most` may be huge
    borders = [round(place * layers / count) for place in range(count + 1)]
    parts = [Segment(first, last, layers, head=False) for first, last in itertools.pairwise(borders)]
    return [*parts, Segment(layers, layers, layers, head=True)]
