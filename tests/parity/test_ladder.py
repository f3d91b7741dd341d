"""The ladder: faithful rungs are called equal, planted faults different, with the place where they first show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export.modules.language_model
import runtime.run
from export.bundle import ExportOptions, write_bundle
from export.parity.modules_rung import record_modules, torch_pipeline
from export.parity.reference_rung import record_reference
from export.parity.verdict import DIFFERENT, EQUAL, WITHIN, Comparison, judge
from runtime.bundle import Bundle
from runtime.engines import open_backend
from runtime.pipeline import Pipeline
from runtime.points import PointCloud
from runtime.run import Run
from runtime.rung import Plan, Recording, record_rung
from runtime.scene import Request
from tests.checkpoints9.faults import per_axis
from tests.exported import FAMILIES, MODES, Export, Exported
from tests.parity import faults
from tests.scenes import room

PLAN = Plan(forced_steps=6, free_tokens=12)
REQUEST = Request(clean_up=False)
CLOUD = room(1, 4000, (4.0, 3.0, 2.5))


def modules(case: Exported) -> Recording:
    return record_modules(torch_pipeline(case.bundle, case.checkpoint), CLOUD, REQUEST, PLAN)


def faulty(case: Exported, backend: faults.FaultyBackend) -> Recording:
    manifest = case.bundle.manifest
    return record_rung(
        Pipeline(dataclasses.replace(case.bundle, manifest=manifest), backend), CLOUD, REQUEST, PLAN, "faulty"
    )


@pytest.mark.parametrize(("vlm_pe", "merge_rule", "attention"), MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_faithful_rungs_are_equal(
    exported: Export, family: str, vlm_pe: str | None, merge_rule: str | None, attention: str
) -> None:
    case = exported(family, vlm_pe, merge_rule, attention)
    pipeline = torch_pipeline(case.bundle, case.checkpoint)
    reference = record_reference(pipeline, case.checkpoint, CLOUD, REQUEST, PLAN)
    middle = modules(case)
    top = record_rung(Pipeline(case.bundle, open_backend(threads=1)), CLOUD, REQUEST, PLAN, "onnxruntime cpu")
    for want, got in ((reference, middle), (middle, top), (reference, top)):
        found = judge(want, got)
        assert found.verdict == EQUAL, found.reason
        assert found.tokens.count > 0


@pytest.fixture
def case(exported: Export) -> Exported:
    return exported("qwen", "3D_RoPE", "3D_only", "causal")


@pytest.mark.parametrize(
    ("alter", "place"),
    [
        (faults.text_table_for_points, "keys of the prompt of layer 0"),
        (faults.stale_row, "logits of forced step 0"),
        (faults.mirrored_neighbours, "point tokens"),
        (faults.swapped_orders, "point tokens"),
    ],
)
def test_altered_inputs_are_found(case: Exported, alter: faults.Alter, place: str) -> None:
    assert_found(case, faults.FaultyBackend(case.checkpoint, alter), place)


def test_a_first_position_off_by_one_is_found(case: Exported) -> None:
    alter = faults.first_position_off_by_one(case.bundle.manifest.position.text)
    assert_found(case, faults.FaultyBackend(case.checkpoint, alter), "logits of forced step 0")


@pytest.mark.parametrize(
    ("mend", "place"),
    [
        (faults.shifted_mask, "keys of the prompt of layer 1"),  # what layer 0 attends to shows in layer 1
        (faults.wrong_head_group, "keys of the prompt of layer 1"),
        (faults.restore_left_out(0), "keys of the prompt of layer 0"),
        (faults.restore_left_out(1), "keys of the prompt of layer 1"),
    ],
)
def test_altered_attention_is_found(case: Exported, mend: Callable[[str, Any], None], place: str) -> None:
    assert_found(case, faults.FaultyBackend(case.checkpoint, mend=mend), place)


@pytest.mark.parametrize(
    ("part", "place"),
    [("self_attn.k_proj", "keys of the prompt of layer 1"), ("self_attn.v_proj", "values of the prompt of layer 1")],
)
def test_weights_off_by_one_per_cent_are_found(case: Exported, part: str, place: str) -> None:
    checkpoint = faults.Scaled(case.checkpoint, f"model.layers.1.{part}.weight")
    assert_found(case, faults.FaultyBackend(checkpoint), place)


@pytest.mark.parametrize("axes", [(1, 0, 2), (0, 2, 1)])
def test_swapped_axes_are_found(case: Exported, axes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    want, plain = modules(case), Run.tables

    def tables(run: Run, scenes: Any, prompt: Any) -> Any:
        turned = [
            dataclasses.replace(
                scene, inputs=dataclasses.replace(scene.inputs, patch_coords=scene.patch_coords[:, axes])
            )
            for scene in scenes
        ]
        return plain(run, turned, prompt)

    monkeypatch.setattr(Run, "tables", tables)
    assert_departs(judge(want, modules(case)), "table cos_3d")


def test_per_axis_normalization_is_found(case: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    want = modules(case)
    monkeypatch.setattr(runtime.run, "normalize_coords", per_axis(runtime.run.normalize_coords))
    assert_departs(judge(want, modules(case)), "table cos_3d")


@pytest.mark.parametrize("points", [60, pytest.param(4010, marks=pytest.mark.slow)])
def test_a_softmax_summed_in_half_precision_is_found_where_it_matters(
    exported: Export, monkeypatch: pytest.MonkeyPatch, points: int
) -> None:
    """Judged as an engine in fp16: over a short prompt that is precision, over 4,096 positions it is not."""
    case, plan = exported("qwen", "3D_RoPE", "3D_only", max_length=4608), Plan(forced_steps=1, free_tokens=1)
    cloud = PointCloud(np.random.default_rng(0).random((points, 3)) * 31.0, np.full((points, 3), 0.5))
    pipeline = torch_pipeline(case.bundle, case.checkpoint)
    want = record_modules(pipeline, cloud, REQUEST, plan)
    monkeypatch.setattr(export.modules.language_model, "_softmax", faults.softmax_summed_in_half)
    got = record_modules(pipeline, cloud, REQUEST, plan)
    found = judge(want, dataclasses.replace(got, facts=got.facts | {"precision": "fp16"}))
    if points == 60:
        assert found.verdict == WITHIN, found.reason
    else:
        assert want.facts["positions"] >= 4096
        assert_departs(found, "keys of the prompt of layer 1")  # what layer 0 attends to shows in layer 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_faithful_engine_in_half_precision_is_equal_within_it(exported: Export, tmp_path: Path, family: str) -> None:
    case = exported(family, "3D_RoPE", "3D_only", "causal")
    write_bundle(case.checkpoint, tmp_path / "bundle", ExportOptions(precision="fp16", max_length=1024))
    half = record_rung(
        Pipeline(Bundle.open(tmp_path / "bundle"), open_backend(threads=1)), CLOUD, REQUEST, PLAN, "fp16"
    )
    reference = record_reference(torch_pipeline(case.bundle, case.checkpoint), case.checkpoint, CLOUD, REQUEST, PLAN)
    for want in (reference, modules(case)):
        found = judge(want, half)
        assert found.verdict == WITHIN, found.reason
        assert max(difference.error for difference in found.differences) > 1e-4, "it is not in float32"
    exact = judge(reference, dataclasses.replace(half, facts=half.facts | {"precision": "fp32"}))
    assert exact.verdict == DIFFERENT, "what passes as half precision does not pass as float32"


def assert_found(case: Exported, backend: faults.FaultyBackend, place: str) -> None:
    found = judge(modules(case), faulty(case, backend))
    assert_departs(found, place)


def assert_departs(found: Comparison, place: str) -> None:
    assert found.verdict == DIFFERENT, found.reason
    assert found.departure is not None
    assert found.departure.place == place
    assert place in found.reason
