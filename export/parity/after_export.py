"""The short check at the end of an export: do the graphs compute what the checkpoint's modules compute?

The clean torch modules in float32 are compared with ONNX Runtime on the CPU, over a small built-in room and a few
tokens. That needs neither transformers nor a scene and takes seconds; `python -m export.parity` is the whole ladder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.checkpoint import Checkpoint
from export.parity.modules_rung import record_modules, torch_pipeline
from export.parity.verdict import NOT_CHECKED, judge
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.errors import BundleError, SceneError
from runtime.manifest import Manifest, ParityRecord
from runtime.pipeline import Pipeline
from runtime.points import PointCloud
from runtime.rung import Plan, Recording, record_rung
from runtime.scene import Request

PLAN = Plan(forced_steps=2, free_tokens=4)
RUNGS = 2
POINTS, SIZE = 2000, (1.8, 1.4, 1.1)  # metres; no two axes alike, so that exchanged ones are seen
BF16 = (
    "ONNX Runtime does not compute bf16 on the CPU. Compare on a GPU: "
    "python -m export.parity --backends torch onnxruntime-cuda"
)
Step = Callable[[], object]  # called when a rung has been recorded


def check_bundle(checkpoint: Checkpoint, folder: Path, step: Step) -> Manifest:
    """Compare a bundle that was just written, and put the verdict into its manifest, which is returned.

    What cannot be run here is recorded as not checked, with the reason. Raises OSError where the manifest cannot be
    written, BundleError where another bundle took its place meanwhile.
    """
    bundle = Bundle.open(folder, verify=False)
    manifest = dataclasses.replace(bundle.manifest, parity=_record(checkpoint, bundle, step))
    if Manifest.read(folder) != bundle.manifest:  # its facts would be written over the other's
        raise BundleError(f"{folder}: was exported anew while its parity was checked. Export one at a time.")
    manifest.write(folder)
    return manifest


def built_in_room() -> PointCloud:
    """Points on the faces of a small room and of a box in it, with colours."""
    rng = np.random.default_rng(0)
    inside = rng.random((POINTS, 3))
    side = rng.integers(0, 6, POINTS)
    inside[np.arange(POINTS), side % 3] = side // 3  # onto one of the six faces
    scale, corner = np.tile(SIZE, (POINTS, 1)), np.zeros((POINTS, 3))
    boxed = rng.random(POINTS) < 0.25
    scale[boxed], corner[boxed] = (0.9, 0.5, 0.4), (0.3, 0.4, 0.0)
    return PointCloud(inside * scale + corner, rng.integers(0, 256, (POINTS, 3)) / 255.0)


def _record(checkpoint: Checkpoint, bundle: Bundle, step: Step) -> ParityRecord:
    if bundle.manifest.precision == "bf16":
        return not_checked(BF16)
    try:
        want, got = _recordings(checkpoint, bundle, step)
    except SceneError as error:  # too short a cache for the room, say, or no ONNX Runtime: the bundle may be good
        return not_checked(str(error).replace(f"{bundle.folder}: ", ""))
    found = judge(want, got)
    return ParityRecord(
        verdict=found.verdict,
        reason=found.reason,
        rung=got.name,
        against=want.name,
        scene=f"a built-in room of {got.facts['voxels']:,} voxels, {got.facts['positions']:,} positions",
        versions=f"torch {want.facts['torch']}, {got.facts['library']}",
    )


def not_checked(reason: str) -> ParityRecord:
    """The record of a check that was not made."""
    return ParityRecord(verdict=NOT_CHECKED, reason=reason, rung=None, against=None, scene=None, versions=None)


def _recordings(checkpoint: Checkpoint, bundle: Bundle, step: Step) -> tuple[Recording, Recording]:
    """The graphs first: where they cannot run, the modules need not."""
    room, request = built_in_room(), Request(clean_up=False)
    with Pipeline(bundle, open_backend("onnxruntime")) as pipeline:
        got = record_rung(pipeline, room, request, PLAN, "onnxruntime cpu")
    step()
    want = record_modules(torch_pipeline(bundle, checkpoint), room, request, PLAN)
    step()
    return want, got
