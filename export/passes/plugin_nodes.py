"""A whole prefill or decode graph becomes one node, which a library of ours computes.

    the stacked decode graph   ->  SpatialLMDecodeStep(input_ids, cos, sin, past_length, past, weights)
    the stacked prefill graph  ->  SpatialLMPrefill(input_ids, point_embeds, point_mask, cos_3d, ..., lengths, weights)

Inputs and outputs of the graph stay as they are but for the mask, which becomes int32, and one more input comes last:
the weight file as it is, `weights` [N] in the model's half precision. So the engines of both hold no weights, and the
runtime gives both the same memory. Where each tensor begins in it is an attribute of the node, `offsets`, in the order
of `plugins/common/model.h` and in units of 16 bytes; `plugins/language_model/reference.py` says what is computed. What
is replaced is exactly what `export.graph` makes, in one of its forms of the norm: all else is refused, for the kernels
could not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import TensorProto, helper

from export.engines.plugins import model_sizes, why_no_plugins
from export.graph.builder import INT32, PRECISIONS
from export.graph.language_model import decode_graph, prefill_graph
from export.graph.layers import NORMS, Norm
from export.passes.stack_cache import stack_cache
from plugins.decode_step.sizes import Sizes
from plugins.language_model.sizes import MOST_VALUES, OFFSET_BYTES, tensor_values
from runtime.bundle import PAST, ROWS, WEIGHTS
from runtime.manifest import LanguageModelSpec

DOMAIN = "spatiallm"
DECODE, PREFILL = "SpatialLMDecodeStep", "SpatialLMPrefill"
VERSION = "2"  # of the plugins, by which TensorRT looks for them
DECODE_INPUTS = ("input_ids", "cos", "sin", "past_length", PAST)
PREFILL_INPUTS = ("input_ids", "point_embeds", "point_mask", "cos_3d", "sin_3d", "cos_1d", "sin_1d", "lengths")
MASK = "point_mask"
OUTPUTS = ("logits", ROWS)
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
HALF_BYTES = 2
Make = Callable[["_Given", Norm], onnx.ModelProto]  # the graph as we would make it of these weights


def to_decode_step(model: onnx.ModelProto, spec: LanguageModelSpec, precision: str, weight_bytes: int) -> None:
    """Rewrite a stacked decode graph in place. Raises ValueError with the reason where it is not one, or not for us.

    `weight_bytes` is the size of the weight file.
    """
    _refuse(model, spec, precision, "decode", lambda given, norm: decode_graph(spec, given, precision, norm))  # type: ignore[arg-type]
    facts = _attributes(model, spec, precision, weight_bytes)
    _rewrite(model, DECODE, DECODE_INPUTS, facts, precision, weight_bytes)


def to_prefill(
    model: onnx.ModelProto, spec: LanguageModelSpec, precision: str, prefill_attention: str, weight_bytes: int
) -> None:
    """Rewrite a stacked prefill graph in place. Raises ValueError as `to_decode_step` does."""

    def make(given: _Given, norm: Norm) -> onnx.ModelProto:
        return prefill_graph(spec, given, precision, prefill_attention, norm)  # type: ignore[arg-type]

    _refuse(model, spec, precision, "prefill", make)
    facts = _attributes(model, spec, precision, weight_bytes) | {"causal": int(prefill_attention == "causal")}
    _rewrite(model, PREFILL, PREFILL_INPUTS, facts, precision, weight_bytes)


def _rewrite(
    model: onnx.ModelProto,
    operator: str,
    inputs: tuple[str, ...],
    facts: dict[str, object],
    precision: str,
    weight_bytes: int,
) -> None:
    """Put the node in the place of all others. TensorRT gives plugins no booleans, so a mask is fed as int32."""
    graph = model.graph
    del graph.node[:], graph.initializer[:]
    for value in graph.input:
        if value.name == MASK:
            value.type.tensor_type.elem_type = INT32
    names = {"name": f"{OUTPUTS[0]}:{operator}", "domain": DOMAIN}
    graph.node.append(helper.make_node(operator, [*inputs, WEIGHTS], list(OUTPUTS), **names, **facts))
    values = [weight_bytes // HALF_BYTES]
    graph.input.append(helper.make_tensor_value_info(WEIGHTS, PRECISIONS[precision], values))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def weight_names(spec: LanguageModelSpec) -> Iterator[str | None]:
    """Tensors of the weight file, in the order of the offsets; None for a bias that is not there."""
    yield from (EMBEDDING, NORM, EMBEDDING if spec.tie_word_embeddings else HEAD)
    for layer in range(spec.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight"
        yield f"{prefix}.self_attn.qkv_proj.weight"
        yield f"{prefix}.self_attn.qkv_proj.bias" if spec.qkv_bias else None
        yield f"{prefix}.self_attn.o_proj.weight"
        yield f"{prefix}.post_attention_layernorm.weight"
        yield f"{prefix}.mlp.gate_up_proj.weight"
        yield f"{prefix}.mlp.down_proj.weight"


def _attributes(
    model: onnx.ModelProto, spec: LanguageModelSpec, precision: str, weight_bytes: int
) -> dict[str, object]:
    """What the node says about the model. Raises ValueError for a tensor that does not lie in the weight file."""
    sizes = model_sizes(spec, precision)
    offsets = list(_offsets(model, spec, sizes, PRECISIONS[precision], weight_bytes))
    numbers = {name.lower(): value for name, value in sizes.constants().items() if name != "HALF_IS_BF16"}
    more = {"bf16": int(sizes.bf16), "tied": int(spec.tie_word_embeddings), "offsets": offsets}
    return numbers | more | {"plugin_version": VERSION, "plugin_namespace": ""}


def _offsets(
    model: onnx.ModelProto, spec: LanguageModelSpec, sizes: Sizes, kind: int, weight_bytes: int
) -> Iterator[int]:
    """Where each tensor begins, in units of 16 bytes."""
    if weight_bytes % HALF_BYTES or weight_bytes // HALF_BYTES > MOST_VALUES:
        raise ValueError(f"the weight file has {weight_bytes:,} bytes, which are no {MOST_VALUES:,} values or fewer")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, values in zip(weight_names(spec), tensor_values(sizes), strict=True):
        if name is None:
            yield -1
            continue
        tensor = tensors[name]
        facts = {entry.key: entry.value for entry in tensor.external_data}
        begin, length = int(facts.get("offset", -1)), int(facts.get("length", -1))
        inside = 0 <= begin <= begin + length <= weight_bytes and begin % OFFSET_BYTES == 0
        if tensor.data_type != kind or length != HALF_BYTES * values or not inside:
            raise ValueError(f"tensor {name!r} is not {values:,} values in half precision within the weight file")
        yield begin // OFFSET_BYTES


def _refuse(model: onnx.ModelProto, spec: LanguageModelSpec, precision: str, kind: str, make: Make) -> None:
    """Raise ValueError unless the graph is one of ours. Of its forms, the one that agrees longest says why not."""
    if reason := why_no_plugins(spec, precision):
        raise ValueError(reason)
    differences = [_difference(model, spec, kind, make, norm) for norm in NORMS.values()]
    if reason := max(differences, key=lambda difference: (difference[1] is None, difference[0]))[1]:
        raise ValueError(reason)


def _difference(
    model: onnx.ModelProto, spec: LanguageModelSpec, kind: str, make: Make, norm: Norm
) -> tuple[int, str | None]:
    """How many nodes agree with the graph as we would make it, and the first difference or None."""
    try:
        wanted = make(_Given(model), norm)
    except KeyError as error:
        return 0, f"the graph has no weight {error}"
    stack_cache(wanted, spec)
    if reason := _border(model.graph, wanted.graph, kind):
        return 0, reason
    count = len(wanted.graph.node)
    for place, (found, expected) in enumerate(zip(model.graph.node, wanted.graph.node, strict=False)):
        if found != expected:
            return place, f"node {found.name!r} is not what a {kind} graph has there, which is {expected.name!r}"
    if len(model.graph.node) != count:
        return count, f"there are {len(model.graph.node)} nodes, but a {kind} graph has {count}"
    constants = {tensor.name: tensor for tensor in wanted.graph.initializer}
    different = [tensor.name for tensor in model.graph.initializer if constants.get(tensor.name) != tensor]
    return count, f"tensor {different[0]!r} is not what a {kind} graph has" if different else None


def _border(found: onnx.GraphProto, wanted: onnx.GraphProto, kind: str) -> str | None:
    for side in ("input", "output"):
        if list(getattr(found, side)) != list(getattr(wanted, side)):
            names = ", ".join(value.name for value in getattr(wanted, side))
            return f"the graph's {side}s are not those of a {kind} graph with its cache in one tensor: {names}"
    return None


class _Given:
    """The weights that a model has, for the builder of the graph it is compared with."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def tensor_proto(self, name: str) -> TensorProto:
        """Raises KeyError."""
        return self._tensors[name]
