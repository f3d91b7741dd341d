"""What TensorRT made of a graph: its inspector's JSON, counted.

Up to version 10 and after it the form differs beside the list "Layers", whose entries are objects where the engine was
built with detailed profiling, and plain names otherwise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerCount:
    """Layers of a compiled graph, and how many of them only copy a tensor into another format."""

    layers: int
    reformats: int


def count_layers(text: str) -> LayerCount:
    """Count the layers in an inspector's report. Raises ValueError where it is none."""
    facts = json.loads(text)
    layers = facts.get("Layers") if isinstance(facts, dict) else None
    if not isinstance(layers, list):
        raise ValueError("it has no list of layers")
    return LayerCount(len(layers), sum(map(_is_reformat, layers)))


def _is_reformat(layer: Any) -> bool:
    name, kind = (layer.get("Name"), layer.get("LayerType")) if isinstance(layer, dict) else (layer, None)
    return kind == "Reformat" or "Reformatting CopyNode" in str(name)
