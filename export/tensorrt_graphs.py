"""The language model as TensorRT takes it: all of the cache in one tensor, in graphs beside the portable ones.

Where our kernels can run the model, prefill and decode are also there as one node of the plugin library each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from export.engines.plugins import why_no_plugins
from export.graph.language_model import decode_graph, head_graph, prefill_graph, shared_graph
from export.graph.layers import NORMS
from export.graph.segments import SEGMENT_LAYERS, Segment, split
from export.graph.weights import WeightFile
from export.passes.plugin_nodes import to_decode_step, to_prefill
from export.passes.stack_cache import stack_cache, stack_segment
from runtime.engines.plans import PLUGINS, segment_name
from runtime.manifest import LanguageModelSpec

SHARED = "language_model.stacked"  # prefill and decode in one graph
KINDS = ("prefill", "decode")  # graphs that are also there in segments
STACKED = (SHARED, "prefill.stacked", "decode.stacked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How TensorRT's graphs are written. `norm` is one of NORMS: equal in float32, but not so in half precision."""

    precision: str
    prefill_attention: str
    norm: str = "plain"
    segment_layers: int = SEGMENT_LAYERS


def tensorrt_graphs(
    spec: LanguageModelSpec, weights: WeightFile, dialect: Dialect
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graphs of `graph_names` by name."""
    precision, attention, norm = dialect.precision, dialect.prefill_attention, NORMS[dialect.norm]
    graphs = (
        shared_graph(spec, weights, precision, attention, norm),
        prefill_graph(spec, weights, precision, attention, norm),
        decode_graph(spec, weights, precision, norm),
    )
    for name, graph in zip(STACKED, graphs, strict=True):
        stack_cache(graph, spec)
        yield name, graph
    if not why_no_plugins(spec, precision):
        _, prefill, decode = graphs
        to_prefill(prefill, spec, precision, attention, weights.size)
        yield PLUGINS["prefill"], prefill
        to_decode_step(decode, spec, precision, weights.size)
        yield PLUGINS["decode"], decode
    for number, segment in enumerate(segments(spec, dialect.segment_layers)):
        for kind in KINDS:
            yield segment_name(kind, number), _segment(kind, spec, weights, dialect, segment)


def _segment(
    kind: str, spec: LanguageModelSpec, weights: WeightFile, dialect: Dialect, segment: Segment
) -> onnx.ModelProto:
    precision, norm = dialect.precision, NORMS[dialect.norm]
    if not segment.range:
        return head_graph(kind, spec, weights, precision, norm)
    if kind == "prefill":
        graph = prefill_graph(spec, weights, precision, dialect.prefill_attention, norm, segment)
    else:
        graph = decode_graph(spec, weights, precision, norm, segment)
    stack_segment(graph, spec, segment)
    return graph


def segments(spec: LanguageModelSpec, most: int) -> list[Segment]:
    """Those that a bundle has graphs of: none where one would hold the whole model."""
    return split(spec.layers, most) if spec.layers > most else []


def graph_names(spec: LanguageModelSpec, precision: str, segment_layers: int) -> tuple[str, ...]:
    """What a bundle has for TensorRT."""
    plugins = () if why_no_plugins(spec, precision) else PLUGINS.values()
    numbers = range(len(segments(spec, segment_layers)))
    return (*STACKED, *plugins, *(segment_name(kind, number) for kind in KINDS for number in numbers))
