"""One room through a bundle's graph with taps, and through the reference of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from export.parity.checkpoints import CheckpointDifference, Checkpoints, Taps
from export.parity.limits import LIMITS
from export.parity.reference_checkpoints import compare_with_reference, reference_checkpoints
from export.reference import build_reference
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.pipeline import Pipeline
from runtime.rung.taps import record_taps
from runtime.scene import Request, Scene
from tests.exported import Exported
from tests.scenes import room

CLOUD = room(1, 3000)


def prepared(bundle: Bundle) -> tuple[Pipeline, Scene]:
    pipeline = Pipeline(bundle, open_backend("onnxruntime", threads=1))
    return pipeline, pipeline.prepare(CLOUD, Request(clean_up=False))


def taps_of(bundle: Bundle) -> Taps:
    pipeline, scene = prepared(bundle)
    return Taps(record_taps(pipeline, scene), bundle.manifest.position.vlm_pe is not None)


def of_reference(case: Exported) -> Mapping[int, Checkpoints]:
    reference = build_reference(case.checkpoint, prefill_attention=case.prefill_attention)
    return reference_checkpoints(reference, prepared(case.bundle)[1], range(2))


def against_reference(case: Exported, bundle: Bundle, precision: str = "fp32") -> list[CheckpointDifference]:
    """Taps of a bundle, faulty or not, against the reference of the case."""
    reference = build_reference(case.checkpoint, prefill_attention=case.prefill_attention)
    return compare_with_reference(reference, prepared(case.bundle)[1], taps_of(bundle), LIMITS[precision])
