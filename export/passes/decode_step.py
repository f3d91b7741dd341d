"""A whole decode graph becomes one node, which a library of ours computes in one kernel.

    the stacked decode graph   ->   spatiallm.SpatialLMDecodeStep(input_ids, cos, sin, past_length, past, weights...)

Inputs and outputs of the graph stay as they are, and so does the weight file; `plugins/decode_step/plugin.h` has the
order of the weights, `plugins/decode_step/reference.py` says what is computed. What is replaced is exactly what
`export.graph` makes, in one of its forms of the norm: all else is refused, for the kernel could not know of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from export.engines.plugins import decode_step_sizes, why_no_decode_step
from export.graph.language_model import decode_graph
from export.graph.layers import NORMS, Norm
from export.passes.stack_cache import stack_cache
from plugins.decode_step.sizes import Sizes
from runtime.bundle import PAST, ROWS
from runtime.manifest import LanguageModelSpec

DOMAIN = "spatiallm"
OPERATOR = "SpatialLMDecodeStep"
VERSION = "1"  # of the plugin, by which TensorRT looks for it
INPUTS = ("input_ids", "cos", "sin", "past_length", PAST)
OUTPUTS = ("logits", ROWS)
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def to_decode_step(model: onnx.ModelProto, spec: LanguageModelSpec, precision: str) -> None:
    """Rewrite a stacked decode graph in place. Raises ValueError with the reason where it is not one, or not for us."""
    if reason := why_no_decode_step(spec, precision) or _mismatch(model, spec, precision):
        raise ValueError(reason)
    weights = list(weight_names(spec))
    node = helper.make_node(
        OPERATOR,
        [*INPUTS, *weights],
        list(OUTPUTS),
        name=f"{OUTPUTS[0]}:{OPERATOR}",
        domain=DOMAIN,
        **_attributes(decode_step_sizes(spec, precision), spec),
    )
    graph = model.graph
    kept = {tensor.name: tensor for tensor in graph.initializer}
    del graph.node[:], graph.initializer[:]
    graph.node.append(node)
    graph.initializer.extend(kept[name] for name in weights)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def weight_names(spec: LanguageModelSpec) -> Iterator[str]:
    """Tensors of the weight file, in the order of the node's inputs."""
    yield from (EMBEDDING, NORM, *(() if spec.tie_word_embeddings else (HEAD,)))
    for layer in range(spec.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight"
        yield f"{prefix}.self_attn.qkv_proj.weight"
        if spec.qkv_bias:
            yield f"{prefix}.self_attn.qkv_proj.bias"
        yield f"{prefix}.self_attn.o_proj.weight"
        yield f"{prefix}.post_attention_layernorm.weight"
        yield f"{prefix}.mlp.gate_up_proj.weight"
        yield f"{prefix}.mlp.down_proj.weight"


def _attributes(sizes: Sizes, spec: LanguageModelSpec) -> dict[str, object]:
    numbers = {name.lower(): value for name, value in sizes.constants().items() if name != "HALF_IS_BF16"}
    more = {"bf16": int(sizes.bf16), "tied": int(spec.tie_word_embeddings)}
    return numbers | more | {"plugin_version": VERSION, "plugin_namespace": ""}


def _mismatch(model: onnx.ModelProto, spec: LanguageModelSpec, precision: str) -> str | None:
    """Why a graph is not the stacked decode graph, or None. Of its forms, the one that agrees longest says it."""
    differences = [_difference(model, spec, precision, norm) for norm in NORMS.values()]
    return max(differences, key=lambda difference: (difference[1] is None, difference[0]))[1]


def _difference(model: onnx.ModelProto, spec: LanguageModelSpec, precision: str, norm: Norm) -> tuple[int, str | None]:
    """How many nodes agree with the graph as we would make it, and the first difference or None."""
    try:
        wanted = decode_graph(spec, _Given(model), precision, norm)  # type: ignore[arg-type]
    except KeyError as error:
        return 0, f"the graph has no weight {error}"
    stack_cache(wanted, spec)
    if reason := _border(model.graph, wanted.graph):
        return 0, reason
    count = len(wanted.graph.node)
    for place, (found, expected) in enumerate(zip(model.graph.node, wanted.graph.node, strict=False)):
        if found != expected:
            return place, f"node {found.name!r} is not what a decode graph has there, which is {expected.name!r}"
    if len(model.graph.node) != count:
        return count, f"there are {len(model.graph.node)} nodes, but a decode graph has {count}"
    constants = {tensor.name: tensor for tensor in wanted.graph.initializer}
    different = [tensor.name for tensor in model.graph.initializer if constants.get(tensor.name) != tensor]
    return count, f"tensor {different[0]!r} is not what a decode graph has" if different else None


def _border(found: onnx.GraphProto, wanted: onnx.GraphProto) -> str | None:
    for kind in ("input", "output"):
        if list(getattr(found, kind)) != list(getattr(wanted, kind)):
            names = ", ".join(value.name for value in getattr(wanted, kind))
            return f"the graph's {kind}s are not those of a decode graph with its cache in one tensor: {names}"
    return None


class _Given:
    """The weights that a model has, for the builder of the graph it is compared with."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def tensor_proto(self, name: str) -> TensorProto:
        """Raises KeyError."""
        return self._tensors[name]
