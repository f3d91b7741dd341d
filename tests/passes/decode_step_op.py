"""The node of the decode step for onnx's reference evaluator, by the kernel's definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from plugins.decode_step.reference import Heads, Layer, Weights, decode_step


class SpatialLMDecodeStep(OpRun):  # type: ignore[misc]
    op_domain = "spatiallm"

    def _run(  # type: ignore[no-untyped-def]
        self, input_ids, cos, sin, past_length, past, embedding, final_norm, *rest, **facts: Any
    ):
        """Logits [1, 1, V] and rows [1, 1, 2L*K, D]; no row of the cache behind `past_length` is looked at."""
        tensors = iter(np.asarray(array, np.float64) for array in rest)
        embedding, final_norm = (np.asarray(array, np.float64) for array in (embedding, final_norm))
        head = embedding if facts["tied"] else next(tensors)
        names = ["input_norm", "qkv", *(["qkv_bias"] if facts["qkv_bias"] else []), "o", "post_norm", "gate_up", "down"]
        layers = [Layer(**{"qkv_bias": None, **{n: next(tensors) for n in names}}) for _ in range(facts["layers"])]
        assert next(tensors, None) is None, "every input has its place"
        weights = Weights(embedding=embedding, layers=layers, final_norm=final_norm, head=head)
        heads = Heads(query=facts["heads"], key=facts["kv_heads"], size=facts["head_dim"])
        length, kind = int(past_length[0]), past.dtype
        cache = np.full((length + 1, *past.shape[2:]), np.nan)
        cache[:length] = past[:length, 0]
        logits = decode_step(
            weights, heads, facts["epsilon"], int(input_ids[0, 0]), length, cache, cos[0, 0], sin[0, 0],
            lambda rows: rows.astype(kind).astype(np.float64),
        )  # fmt: skip
        return logits.astype(np.float32)[None, None], cache[length].astype(kind)[None, None]
