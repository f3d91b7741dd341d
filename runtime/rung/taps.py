"""What attention makes of queries and keys in one scene's prompt, from a bundle that was exported with --taps."""

from __future__ import annotations

import dataclasses

import numpy as np

from runtime.arrays import Array
from runtime.bundle import TAPS
from runtime.errors import BundleError, EngineError
from runtime.pipeline import Pipeline
from runtime.prompt import batch_prompts
from runtime.recording import Recorder
from runtime.run import Run
from runtime.scene import Scene

POINT_MASK = "taps.point_mask"  # bool [S]


def record_taps(pipeline: Pipeline, scene: Scene) -> dict[str, Array]:
    """The taps' outputs of one scene without the batch axis, float32, and its point mask; fit for a `Recording`.

    Prefill runs once more for them, by the graph with taps. Raises BundleError where the bundle has none,
    EngineError for a back end that does not read it.
    """
    bundle, backend = pipeline.bundle, pipeline.engines.backend
    if TAPS not in bundle.manifest.graphs:
        raise BundleError(
            f"{bundle.folder}: has no graph {TAPS!r}, which shows queries and keys. Export it again with --taps all."
        )
    if backend.name == "tensorrt":  # its plans are of graphs without taps
        raise EngineError("The back end 'tensorrt' cannot show queries and keys. Record taps with onnxruntime.")
    prompt = batch_prompts([scene.prompt])
    with backend.exclusive():
        engine, recorder = backend.load(bundle, TAPS), Recorder(backend, 0)
        run = Run(dataclasses.replace(pipeline.engines, prefill=engine), recorder)
        run.start([scene], prompt, run.encode([scene], prompt))
    prefix = f"{engine.name}."
    names = {name.removeprefix(prefix): array for name, array in recorder.arrays.items() if name.startswith(prefix)}
    taps = {name: array[0].astype(np.float32) for name, array in names.items() if name.startswith("tap")}
    return taps | {POINT_MASK: prompt.point_mask[0]}
