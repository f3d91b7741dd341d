"""Our nodes for onnx's reference evaluator, by the operator's definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from plugins.decode_step.reference import Heads, Layer, Weights
from plugins.language_model.reference import language_model
from runtime.arrays import Array


class SpatialLMDecodeStep(OpRun):  # type: ignore[misc]
    op_domain = "spatiallm"

    def _run(self, input_ids, cos, sin, past_length, past, weights, **facts: Any):  # type: ignore[no-untyped-def]
        """Logits [B, T, V] and rows [T, B, 2L*K, D]; no row of the cache behind `past_length` is looked at."""
        kind = past.dtype
        logits, rows = language_model(
            weights_of(weights, facts), heads_of(facts), facts["epsilon"], input_ids, cos, sin,
            past=past.astype(np.float64), past_length=past_length, all_logits=True, stored=rounding(kind),
        )  # fmt: skip
        return logits.astype(np.float32), rows.astype(kind)


class SpatialLMPrefill(OpRun):  # type: ignore[misc]
    op_domain = "spatiallm"

    def _run(  # type: ignore[no-untyped-def]
        self, input_ids, point_embeds, point_mask, cos_3d, sin_3d, cos_1d, sin_1d, lengths, weights, **facts: Any
    ):
        """Logits [B, V] and rows [S, B, 2L*K, D]. The mask is int32."""
        assert point_mask.dtype == np.int32, "TensorRT gives plugins no booleans"
        kind, points = point_embeds.dtype, point_mask != 0
        tables = [np.where(points[..., None], *pair) for pair in ((cos_3d, cos_1d), (sin_3d, sin_1d))]
        logits, rows = language_model(
            weights_of(weights, facts), heads_of(facts), facts["epsilon"], input_ids, *tables,
            point_embeds=point_embeds, point_mask=points, lengths=lengths, causal=bool(facts["causal"]),
            stored=rounding(kind),
        )  # fmt: skip
        return logits.astype(np.float32), rows.astype(kind)


OPERATORS = [SpatialLMDecodeStep, SpatialLMPrefill]


def rounding(kind: Any) -> Any:
    return lambda rows: rows.astype(kind).astype(np.float64)


def heads_of(facts: dict[str, Any]) -> Heads:
    return Heads(query=facts["heads"], key=facts["kv_heads"], size=facts["head_dim"])


def weights_of(file: Array, facts: dict[str, Any]) -> Weights:
    """The tensors of a weight file [N] in float64, by the offsets that the node has."""
    offsets = iter(facts["offsets"])
    hidden, inner, queries = facts["hidden"], facts["intermediate"], facts["heads"] * facts["head_dim"]
    qkv = queries + 2 * facts["kv_heads"] * facts["head_dim"]

    def tensor(*shape: int) -> Any:
        if (offset := next(offsets) * 16 // file.itemsize) < 0:
            return None
        return file[offset : offset + int(np.prod(shape))].reshape(shape).astype(np.float64)

    table = facts["vocabulary"], hidden
    embedding, final_norm, head = tensor(*table), tensor(hidden), tensor(*table)
    assert (facts["offsets"][0] == facts["offsets"][2]) == bool(facts["tied"])
    layers = [
        Layer(
            input_norm=tensor(hidden),
            qkv=tensor(qkv, hidden),
            qkv_bias=tensor(qkv),
            o=tensor(hidden, queries),
            post_norm=tensor(hidden),
            gate_up=tensor(2 * inner, hidden),
            down=tensor(hidden, inner),
        )
        for _ in range(facts["layers"])
    ]
    assert next(offsets, None) is None, "every offset has its tensor"
    assert all((layer.qkv_bias is not None) == bool(facts["qkv_bias"]) for layer in layers)
    return Weights(embedding=embedding, layers=layers, final_norm=final_norm, head=head)
