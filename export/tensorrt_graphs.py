"""The language model as TensorRT takes it: all of the cache in one tensor, in graphs beside the portable ones.

Where our decode kernel can run the model, there is also the decode graph as one node of the plugin library.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from export.engines.plugins import why_no_decode_step
from export.graph.language_model import decode_graph, prefill_graph, shared_graph
from export.graph.layers import NORMS
from export.graph.weights import WeightFile
from export.passes.decode_step import to_decode_step
from export.passes.stack_cache import stack_cache
from runtime.engines.plans import PLUGIN
from runtime.manifest import LanguageModelSpec

SHARED = "language_model.stacked"  # prefill and decode in one graph
STACKED = (SHARED, "prefill.stacked", "decode.stacked")


def tensorrt_graphs(
    spec: LanguageModelSpec, weights: WeightFile, precision: str, prefill_attention: str, norm: str
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graphs of `graph_names` by name. `norm` is one of NORMS: what is equal in float32 need not be so in half."""
    graphs = (
        shared_graph(spec, weights, precision, prefill_attention, NORMS[norm]),
        prefill_graph(spec, weights, precision, prefill_attention, NORMS[norm]),
        decode_graph(spec, weights, precision, NORMS[norm]),
    )
    for name, graph in zip(STACKED, graphs, strict=True):
        stack_cache(graph, spec)
        yield name, graph
    if PLUGIN in graph_names(spec, precision):
        to_decode_step(graph, spec, precision)
        yield PLUGIN, graph


def graph_names(spec: LanguageModelSpec, precision: str) -> tuple[str, ...]:
    """What a bundle has for TensorRT."""
    return STACKED if why_no_decode_step(spec, precision) else (*STACKED, PLUGIN)
