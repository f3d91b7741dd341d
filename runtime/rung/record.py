"""Recording a rung through the runtime: any bundle on any back end, without torch and onnx."""

from __future__ import annotations

import hashlib
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.decode import KVCache
from runtime.pipeline import Pipeline, SceneSource
from runtime.prompt import PromptBatch, batch_prompts
from runtime.run import Run
from runtime.rung.recording import Recording
from runtime.scene import Request, Scene

SEED = 0  # of the forced tokens: drawn, not taken from an implementation, so that machines need not agree first


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How far a rung is followed."""

    forced_steps: int = 64
    free_tokens: int = 256


def forced_ids(vocab_size: int, steps: int) -> Array:
    """Token ids [steps], int32, the same for every rung of a model."""
    return np.random.default_rng(SEED).integers(0, vocab_size, steps).astype(np.int32)


def record_rung(
    pipeline: Pipeline, source: SceneSource, request: Request, plan: Plan, rung: str, **facts: Any
) -> Recording:
    """Run one scene and keep what the ladder compares. Raises SceneError."""
    scene = pipeline.prepare(source, request)
    prompt = batch_prompts([scene.prompt])
    with pipeline.engines.backend.exclusive():
        arrays = _Recorder(pipeline, scene, prompt).arrays(plan)
    return Recording(facts=scene_facts(pipeline, scene, source) | {"rung": rung, **facts}, arrays=arrays)


def scene_facts(pipeline: Pipeline, scene: Scene, source: SceneSource) -> dict[str, Any]:
    """What was run, and on what."""
    manifest = pipeline.bundle.manifest
    gpu = getattr(pipeline.engines.backend, "gpu", None)
    ids = np.ascontiguousarray(scene.prompt.input_ids)
    return {
        "model": manifest.model,
        "family": manifest.language_model.family,
        "precision": manifest.precision,
        "vlm_pe": manifest.position.vlm_pe,
        "merge_rule": manifest.position.merge_rule,
        "prefill_attention": manifest.position.prefill_attention,
        "quantization": None if manifest.quantization is None else manifest.quantization.bits,
        "digests": {name: manifest.files[file].sha256 for name, file in manifest.weights.items()},
        "scene": Path(source).name if isinstance(source, str | Path) else "array",
        "scene_sha256": hashlib.sha256(scene.inputs.feeds["features"].tobytes() + ids.tobytes()).hexdigest(),
        "voxels": len(scene.inputs.feeds["features"]),
        "positions": scene.prompt.length,
        "backend": pipeline.engines.backend.name,
        "device": gpu.name if gpu is not None else platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **_versions(pipeline.engines.backend.name, gpu),
    }


def _versions(name: str, gpu: Any) -> dict[str, str]:
    """E.g. library "tensorrt 10.16.1", which the back end has imported; on a GPU what drives it."""
    found = getattr(sys.modules.get(name), "__version__", None)
    library = {} if found is None else {"library": f"{name} {found}"}
    return library if gpu is None else {**library, "cuda": gpu.cuda, "driver": gpu.driver}


class _Recorder:
    """One scene through the engines, three times from its prompt: rows, forced steps, free running."""

    def __init__(self, pipeline: Pipeline, scene: Scene, prompt: PromptBatch) -> None:
        self._backend, self._manifest = pipeline.engines.backend, pipeline.manifest
        self._run, self._scene, self._prompt = Run(pipeline.engines), scene, prompt
        self._embeds = self._run.encode([scene], prompt)

    def arrays(self, plan: Plan) -> dict[str, Array]:
        start, count = int(self._prompt.point_starts[0]), int(self._prompt.point_counts[0])
        tables = self._run.tables([self._scene], self._prompt)
        points = self._backend.download(self._embeds)[0, start : start + count].astype(np.float32)
        return (
            {f"tables.{name}": table[0] for name, table in tables.items()}
            | {"point_tokens": points}
            | self._forced(plan.forced_steps)
            | self._free(plan.free_tokens)
        )

    def _start(self) -> tuple[Array, KVCache]:
        return self._run.start([self._scene], self._prompt, self._embeds)

    def _forced(self, steps: int) -> dict[str, Array]:
        logits, cache = self._start()
        length, steps = self._scene.prompt.length, min(steps, cache.room)
        ids = forced_ids(self._manifest.language_model.vocab_size, steps)
        after = [np.array(self._run.decoder.step(ids[None, i : i + 1], cache)[0, -1]) for i in range(len(ids))]
        rows = cache.download_rows(length + len(ids))[:, 0]
        width = logits.shape[-1]
        return {
            "prefill.logits": np.array(logits[0], np.float32),
            "prefill.rows": rows[:length],
            "forced.ids": ids,
            "forced.logits": np.array(after, np.float32).reshape(len(ids), width),
            "forced.rows": rows[length:],
        }

    def _free(self, tokens: int) -> dict[str, Array]:
        """Greedy, step by step through the host, so that every margin is seen."""
        logits, cache = self._start()
        chosen: list[int] = []
        margins: list[float] = []
        while True:
            row = logits.reshape(-1)
            second, first = np.partition(row, -2)[-2:]
            chosen.append(int(row.argmax()))
            margins.append(float(first - second))
            if len(chosen) == tokens or cache.room == 0 or chosen[-1] in self._manifest.generation.stop_token_ids:
                break
            logits = self._run.decoder.step(np.array([[chosen[-1]]], np.int32), cache)
        return {"free.tokens": np.array(chosen, np.int32), "free.margins": np.array(margins, np.float32)}
