"""The lowest rung: the literal reference, in float32 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from export.checkpoint import Checkpoint
from export.reference import Reference, build_reference
from export.reference.tables import point_table
from runtime.arrays import Array
from runtime.manifest import Manifest
from runtime.pipeline import Pipeline, SceneSource
from runtime.rung import Plan, Recording, forced_ids
from runtime.rung.record import scene_facts
from runtime.scene import Request, Scene


def record_reference(
    pipeline: Pipeline, checkpoint: Checkpoint, source: SceneSource, request: Request, plan: Plan
) -> Recording:
    """The rung of the literal reference: save and restore, tables of its own, transformers' model and cache."""
    manifest = pipeline.bundle.manifest
    reference = build_reference(checkpoint, prefill_attention=manifest.position.prefill_attention)
    scene = pipeline.prepare(source, request)
    arrays = _Literal(reference, scene, manifest.generation.stop_token_ids).arrays(_within(plan, manifest, scene))
    import transformers  # for its version only

    facts = scene_facts(pipeline, scene, source) | {"backend": "torch", "precision": "fp32"}
    return Recording(
        facts | {"rung": "reference", "torch": torch.__version__, "transformers": transformers.__version__}, arrays
    )


def _within(plan: Plan, manifest: Manifest, scene: Scene) -> Plan:
    """As far as the bundle's cache reaches: the rungs above end there, and the reference's own cache would not."""
    room = manifest.cache.capacity - scene.prompt.length
    return Plan(forced_steps=min(plan.forced_steps, room), free_tokens=min(plan.free_tokens, room + 1))


class _Literal:
    """One scene through the reference."""

    def __init__(self, reference: Reference, scene: Scene, stop_ids: tuple[int, ...]) -> None:
        self._reference, self._scene, self._stop_ids = reference, scene, stop_ids
        self._layers = reference.config.language_model.layers
        self._points = reference.encode(scene.inputs.feeds)

    def arrays(self, plan: Plan) -> dict[str, Array]:
        return {
            **self._tables(),
            "point_tokens": self._points.numpy(),
            **self._forced(plan.forced_steps),
            **self._free(plan.free_tokens),
        }

    def _start(self) -> Any:
        return self._reference.prefill([self._scene.text_ids], [self._points], [self._scene.patch_coords])

    @torch.inference_mode()
    def _tables(self) -> dict[str, Array]:
        prompt, model = self._scene.prompt, self._reference.language_model.model
        cos, sin = model.rotary_emb(torch.zeros(1), torch.arange(prompt.length)[None])
        tables = {"cos_1d": cos[0], "sin_1d": sin[0], "cos_3d": cos[0].clone(), "sin_3d": sin[0].clone()}
        start, count = prompt.point_start, prompt.num_points
        table = None
        if self._reference.spatial:
            table = point_table(self._reference.config, torch.as_tensor(self._scene.patch_coords).float(), start)
        if table is not None:
            tables["cos_3d"][start : start + count], tables["sin_3d"][start : start + count] = table
        return {f"tables.{name}": value.float().numpy() for name, value in tables.items()}

    def _forced(self, steps: int) -> dict[str, Array]:
        logits, cache = self._start()
        length, ids = self._scene.prompt.length, forced_ids(logits.shape[-1], steps)
        after = [self._reference.decode(ids[None, i : i + 1], cache)[0, -1].numpy() for i in range(len(ids))]
        kinds = [kind(layer)[0] for kind in (cache.key, cache.value) for layer in range(self._layers)]
        rows = torch.stack(kinds).permute(2, 0, 1, 3).contiguous().numpy()  # [rows, 2L, K, D]
        return {
            "prefill.logits": logits[0].numpy(),
            "prefill.rows": rows[:length],
            "forced.ids": ids,
            "forced.logits": np.array(after, np.float32).reshape(len(ids), logits.shape[-1]),
            "forced.rows": rows[length:],
        }

    def _free(self, tokens: int) -> dict[str, Array]:
        logits, cache = self._start()
        chosen: list[int] = []
        margins: list[float] = []
        while True:
            largest = logits.reshape(-1).topk(2).values.tolist()
            chosen.append(int(logits.argmax()))
            margins.append(largest[0] - largest[1])
            if len(chosen) == tokens or chosen[-1] in self._stop_ids:
                break
            logits = self._reference.decode(np.array([[chosen[-1]]]), cache)
        return {"free.tokens": np.array(chosen, np.int32), "free.margins": np.array(margins, np.float32)}
