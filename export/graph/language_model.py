"""The prefill and decode graphs. Letters as in the manifest; both read one weight file."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from export.graph import attention as at
from export.graph.builder import BOOL, FLOAT, INT32, PRECISIONS, GraphBuilder
from export.graph.layers import Norm, linear, rms_norm, swiglu
from export.graph.segments import Segment, whole
from export.graph.weights import WeightFile
from runtime.manifest import LanguageModelSpec

Attend = Callable[[int, str, str, str], str]  # layer, queries [B,K,G*S,D], key rows, value rows -> [B,K,G*S,D]


def prefill_graph(
    spec: LanguageModelSpec,
    weights: WeightFile,
    precision: str,
    prefill_attention: str,
    norm: Norm = rms_norm,
    segment: Segment | None = None,
) -> onnx.ModelProto:
    """Prompt in, logits of each sequence's last valid position and all cache rows out (design section 3).

    A segment but the first takes the residual stream instead of ids and embeddings, but the last gives it on.
    """
    g, dtype, part = GraphBuilder("prefill", weights), PRECISIONS[precision], segment or whole(spec.layers)
    start, embeds, table = _prompt(g, spec, dtype, "S", part)
    # An input that a graph does not use is none for some compilers.
    lengths = g.input("lengths", INT32, ["B"]) if part.head or prefill_attention == "full" else ""
    shape = at.shapes(g, start, spec, flat=part.begins)
    # Fresh rows are all finite, so here adding is as safe as choosing; ONNX Runtime does it four times as fast.
    bias = at.mask_out(g, _prefill_mask(g, start, lengths, prefill_attention), g.constant(0.0, "float32"))

    def attend(layer: int, queries: str, keys: str, values: str) -> str:
        by_group = g.op("Reshape", at.scores(g, queries, keys, spec, dtype), shape.group_scores)
        chances = g.op("Softmax", g.op("Add", by_group, bias), axis=-1)
        return at.weigh(g, g.op("Reshape", chances, shape.flat_scores), values, dtype)

    rows = g.op("Reshape", embeds, g.constant([-1, spec.hidden_size]))
    hidden = _body(g, rows, spec, part, shape, table, dtype, attend, "S", norm)
    if part.head:
        last = g.op("Gather", hidden, _last_rows(g, start, lengths))
        _head(g, last, spec, dtype, None, ["B", spec.vocab_size], norm)
    else:
        _hand_on(g, hidden, spec, dtype, shape, part, "S")
    return g.build()


def decode_graph(
    spec: LanguageModelSpec,
    weights: WeightFile,
    precision: str,
    norm: Norm = rms_norm,
    segment: Segment | None = None,
) -> onnx.ModelProto:
    """T new tokens against a cache prefix: logits of each and their cache rows (design section 3).

    A segment but the first takes the residual stream instead of ids, but the last gives it on.
    """
    g, dtype, part = GraphBuilder("decode", weights), PRECISIONS[precision], segment or whole(spec.layers)
    start = g.input("input_ids", INT32, ["B", "T"]) if part.begins else _hidden_input(g, spec, dtype, part, "T")
    cos, sin = (g.input(name, FLOAT, ["B", "T", spec.head_dim]) for name in ("cos", "sin"))
    past_length = _past(g, spec, dtype, part)
    table = at.tables(g, cos, sin, spec.head_dim)
    embeds = g.op("Gather", g.weight("model.embed_tokens.weight"), start) if part.begins else start
    shape = at.shapes(g, start, spec, flat=part.begins)
    attend = _attend_past(g, spec, dtype, part, past_length, _new_mask(g, start, spec))
    flat = g.op("Reshape", embeds, g.constant([-1, spec.hidden_size]))
    hidden = _body(g, flat, spec, part, shape, table, dtype, attend, "T", norm)
    if part.head:
        _head(g, hidden, spec, dtype, shape.batch_and_rows, ["B", "T", spec.vocab_size], norm)
    else:
        _hand_on(g, hidden, spec, dtype, shape, part, "T")
    return g.build()


def head_graph(
    kind: str, spec: LanguageModelSpec, weights: WeightFile, precision: str, norm: Norm = rms_norm
) -> onnx.ModelProto:
    """The last segment of prefill or decode: the residual stream behind all layers in, logits out."""
    g, dtype, part = GraphBuilder(kind, weights), PRECISIONS[precision], whole(spec.layers)
    prefill = kind == "prefill"
    hidden = g.input(part.after, dtype, ["B", "S" if prefill else "T", spec.hidden_size])
    rows = g.op("Reshape", hidden, g.constant([-1, spec.hidden_size]))
    if prefill:
        last = g.op("Gather", rows, _last_rows(g, hidden, g.input("lengths", INT32, ["B"])))
        _head(g, last, spec, dtype, None, ["B", spec.vocab_size], norm)
    else:
        shape = g.op("Concat", g.dim(hidden, 0), g.dim(hidden, 1), axis=0)
        _head(g, rows, spec, dtype, shape, ["B", "T", spec.vocab_size], norm)
    return g.build()


def shared_graph(
    spec: LanguageModelSpec, weights: WeightFile, precision: str, prefill_attention: str, norm: Norm = rms_norm
) -> onnx.ModelProto:
    """Prefill and decode in one graph, for back ends that compile a copy of the weights into each.

    T tokens, point tokens among them, over a cache prefix: logits [B, V] after the last of `lengths` tokens, and the
    T new rows. Prefill is this over a prefix of which no row is valid, decode this with one token and no points.
    Where prefill attends in full, a single token still sees itself and the past, as in decode.
    """
    g, dtype = GraphBuilder("language_model", weights), PRECISIONS[precision]
    part = whole(spec.layers)
    ids, embeds, table = _prompt(g, spec, dtype, "T", part)
    lengths = g.input("lengths", INT32, ["B"])
    past_length, shape = _past(g, spec, dtype, part), at.shapes(g, ids, spec)
    if prefill_attention == "causal":
        new_valid = _new_mask(g, ids, spec)
    else:  # [B, 1, 1, T]
        new_valid = g.op("Less", _range(g, g.dim(ids, 1)), g.op("Unsqueeze", lengths, g.constant([1, 2, 3])))
    attend = _attend_past(g, spec, dtype, part, past_length, new_valid)
    rows = g.op("Reshape", embeds, g.constant([-1, spec.hidden_size]))
    hidden = _body(g, rows, spec, part, shape, table, dtype, attend, "T", norm)
    last = g.op("Gather", hidden, _last_rows(g, ids, lengths))
    _head(g, last, spec, dtype, None, ["B", spec.vocab_size], norm)
    return g.build()


def _prompt(
    g: GraphBuilder, spec: LanguageModelSpec, dtype: int, rows: str, part: Segment
) -> tuple[str, str, at.Tables]:
    """Inputs with point tokens among them: ids [B, rows], embeddings [B, rows, C], and the tables.

    A point token has its embedding from `point_embeds` and its angles from the 3D tables. In a later segment the
    residual stream stands for both ids and embeddings.
    """
    if part.begins:
        ids = g.input("input_ids", INT32, ["B", rows])
        points = g.input("point_embeds", dtype, ["B", rows, spec.hidden_size])
    else:
        hidden = _hidden_input(g, spec, dtype, part, rows)
    mask = g.op("Unsqueeze", g.input("point_mask", BOOL, ["B", rows]), g.constant([2]))
    names = ("cos_3d", "sin_3d", "cos_1d", "sin_1d")
    cos_3d, sin_3d, cos_1d, sin_1d = (g.input(name, FLOAT, ["B", rows, spec.head_dim]) for name in names)
    table = at.tables(g, g.op("Where", mask, cos_3d, cos_1d), g.op("Where", mask, sin_3d, sin_1d), spec.head_dim)
    if not part.begins:
        return hidden, hidden, table
    embeds = g.op("Where", mask, points, g.op("Gather", g.weight("model.embed_tokens.weight"), ids))
    return ids, embeds, table


def _hidden_input(g: GraphBuilder, spec: LanguageModelSpec, dtype: int, part: Segment, rows: str) -> str:
    return g.input(part.before, dtype, ["B", rows, spec.hidden_size])


def _hand_on(
    g: GraphBuilder, x: str, spec: LanguageModelSpec, dtype: int, shape: at.Shapes, part: Segment, rows: str
) -> None:
    """The residual stream as an output, hidden rows [R, C] as [B, rows, C]."""
    target = g.op("Concat", shape.batch_and_rows, g.constant([spec.hidden_size]), axis=0)
    g.op("Reshape", x, target, name=part.after)
    g.output(part.after, dtype, ["B", rows, spec.hidden_size])


def _past(g: GraphBuilder, spec: LanguageModelSpec, dtype: int, part: Segment) -> str:
    """Declare a cache prefix, a tensor for each layer; returns `past_length` [B], its valid rows."""
    past_length = g.input("past_length", INT32, ["B"])
    for kind in ("key", "value"):
        for layer in part.range:
            g.input(f"past_{kind}.{layer}", dtype, ["M", "B", spec.kv_heads, spec.head_dim])
    return past_length


def _attend_past(
    g: GraphBuilder, spec: LanguageModelSpec, dtype: int, part: Segment, past_length: str, new_valid: str
) -> Attend:
    """Attention over a cache prefix and the new rows: two products, one softmax; the cache is never joined."""
    rows = g.dim(f"past_key.{part.first}", 0)
    past_valid = _past_mask(g, rows, past_length)

    def attend(layer: int, queries: str, keys: str, values: str) -> str:
        past = at.mask_out(g, past_valid, at.scores(g, queries, f"past_key.{layer}", spec, dtype))
        new = at.mask_out(g, new_valid, at.scores(g, queries, keys, spec, dtype))
        chances = g.op("Softmax", g.op("Concat", past, new, axis=-1), axis=-1)
        over_past = g.op("Slice", chances, g.constant([0]), rows, g.constant([-1]))
        over_new = g.op("Slice", chances, rows, g.constant([2**31 - 1]), g.constant([-1]))
        return g.op("Add", at.weigh(g, over_past, f"past_value.{layer}", dtype), at.weigh(g, over_new, values, dtype))

    return attend


def _body(
    g: GraphBuilder,
    x: str,
    spec: LanguageModelSpec,
    part: Segment,
    shape: at.Shapes,
    table: at.Tables,
    dtype: int,
    attend: Attend,
    rows: str,
    norm: Norm,
) -> str:
    """The segment's layers over hidden rows [R, C]; declares the cache rows as outputs."""
    for layer in part.range:
        name = f"model.layers.{layer}"
        with g.scope(name):
            normed = norm(g, x, f"{name}.input_layernorm.weight", spec.rms_norm_eps, dtype)
            query, key, value = at.project(g, normed, f"{name}.self_attn", spec, shape, table, dtype)
            keys, values = at.to_rows(g, key, f"key.{layer}"), at.to_rows(g, value, f"value.{layer}")
            mixed = attend(layer, at.grouped_queries(g, query, spec, shape, dtype), keys, values)
            bias = f"{name}.self_attn.o_proj.bias" if spec.output_bias else None
            x = g.op("Add", x, linear(g, at.merge_heads(g, mixed, shape), f"{name}.self_attn.o_proj.weight", bias))
            normed = norm(g, x, f"{name}.post_attention_layernorm.weight", spec.rms_norm_eps, dtype)
            x = g.op("Add", x, swiglu(g, normed, f"{name}.mlp", spec.intermediate_size, spec.mlp_bias))
    for kind in ("key", "value"):
        for layer in part.range:
            g.output(f"{kind}.{layer}", dtype, [rows, "B", spec.kv_heads, spec.head_dim])
    return x


def _head(
    g: GraphBuilder, x: str, spec: LanguageModelSpec, dtype: int, rows: str | None, shape: list[int | str], norm: Norm
) -> None:
    """Final norm and head product in the model's type; float32 logits. `rows` reshapes [R, V] to [B, T, V]."""
    normed = norm(g, x, "model.norm.weight", spec.rms_norm_eps, dtype)
    head = "model.embed_tokens.weight" if spec.tie_word_embeddings else "lm_head.weight"
    flat = linear(g, normed, head)
    if rows is not None:
        flat = g.op("Reshape", flat, g.op("Concat", rows, g.constant([spec.vocab_size]), axis=0))
    g.op("Cast", flat, to=FLOAT, name="logits")
    g.output("logits", FLOAT, shape)


def _range(g: GraphBuilder, count: str) -> str:
    """0 .. count-1 as int32, `count` a shape vector of one entry."""
    zero, one = g.constant(0, "int32"), g.constant(1, "int32")
    return g.op("Range", zero, g.cast(g.op("Squeeze", count, g.constant([0])), INT32), one)


def _prefill_mask(g: GraphBuilder, ids: str, lengths: str, prefill_attention: str) -> str:
    """Which keys a query may see, broadcast over scores [B, K, G, S, S]."""
    places = _range(g, g.dim(ids, 1))
    if prefill_attention == "causal":  # padding stands at the right end, where no valid query looks
        return g.op("LessOrEqual", places, g.op("Unsqueeze", places, g.constant([1])))
    return g.op("Less", places, g.op("Unsqueeze", lengths, g.constant([1, 2, 3, 4])))


def _past_mask(g: GraphBuilder, rows: str, past_length: str) -> str:
    """[B, 1, 1, M]: rows at and beyond past_length are not the cache's."""
    return g.op("Less", _range(g, rows), g.op("Unsqueeze", past_length, g.constant([1, 2, 3])))


def _new_mask(g: GraphBuilder, ids: str, spec: LanguageModelSpec) -> str:
    """[G*T, T]: causal among the new rows, once for each query head of a group."""
    count = g.dim(ids, 1)
    places = _range(g, count)
    causal = g.op("LessOrEqual", places, g.op("Unsqueeze", places, g.constant([1])))
    group = g.constant([spec.heads // spec.kv_heads])
    tiled = g.op("Expand", causal, g.op("Concat", group, count, count, axis=0))
    return g.op("Reshape", tiled, g.op("Concat", g.constant([-1]), count, axis=0))


def _last_rows(g: GraphBuilder, ids: str, lengths: str) -> str:
    """[B]: where in the flattened rows [B*S] each sequence's last valid position stands."""
    width = g.cast(g.op("Squeeze", g.dim(ids, 1), g.constant([0])), INT32)
    starts = g.op("Mul", _range(g, g.dim(ids, 0)), width)
    return g.op("Sub", g.op("Add", starts, lengths), g.constant(1, "int32"))
