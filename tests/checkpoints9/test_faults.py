"""Planted faults are named by checkpoint and layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import runtime.run
from export.parity.checkpoints import CheckpointDifference, departure, describe
from runtime.arrays import Array
from runtime.manifest import LanguageModelSpec
from tests.checkpoints9 import faults
from tests.checkpoints9.conftest import Tapped
from tests.checkpoints9.scene import against_reference
from tests.exported import FAMILIES, Exported

RULES = ["3D_only", "3D_with_1D"]
GRAPH_FAULTS = {
    "the 1D table used for points": (faults.table_1d_for_points, 2, 0),
    "restore left out in layer 0": (faults.restore_left_out(0), 9, 0),
    "restore left out in layer 1": (faults.restore_left_out(1), 9, 1),
    "heads in another order, layer 1": (faults.heads_reversed_before_turning(1), 1, 1),
    "query heads in another order behind the turn, layer 0": (faults.query_heads_reversed_after_turning(0), 9, 0),
}


def assert_named(differences: list[CheckpointDifference], number: int, layer: int) -> None:
    first = departure(differences)
    assert first is not None
    assert (first.number, first.layer) == (number, layer), describe(differences)
    assert first.error > 10 * first.limit
    assert describe(differences).startswith(f"first departs at checkpoint {number} (")


@pytest.mark.parametrize("fault", GRAPH_FAULTS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_faults_of_the_graph(tapped: Tapped, tmp_path: Path, family: str, rule: str, fault: str) -> None:
    case = tapped(family, "3D_RoPE", rule)
    change, number, layer = GRAPH_FAULTS[fault]
    faulty = faults.with_graph(case.bundle, tmp_path / "faulty", change)
    assert_named(against_reference(case, faulty), number, layer)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_axes_swapped_in_the_table(tapped: Tapped, family: str, rule: str) -> None:
    case = tapped(family, "3D_RoPE", rule)
    swap = (0, 2, 1, 3)
    faulty = faults.with_points(
        case.bundle, lambda spec: dataclasses.replace(spec, axis=tuple(swap[axis] for axis in spec.axis))
    )
    assert_named(against_reference(case, faulty), 2, 0)


@pytest.mark.parametrize("rule", RULES)
def test_the_1d_table_fed_for_points(tapped: Tapped, rule: str) -> None:
    case = tapped("qwen", "3D_RoPE", rule)
    assert_named(against_reference(case, faults.with_points(case.bundle, lambda _: None)), 2, 0)


@pytest.mark.parametrize("rule", RULES)
def test_per_axis_normalization(tapped: Tapped, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    case = tapped("llama", "3D_RoPE", rule)
    monkeypatch.setattr(runtime.run, "normalize_coords", faults.per_axis(runtime.run.normalize_coords))
    assert_named(against_reference(case, case.bundle), 2, 0)


@pytest.mark.parametrize("vlm_pe", [None, "3D_RoPE"])
def test_a_text_table_of_another_base(tapped: Tapped, monkeypatch: pytest.MonkeyPatch, vlm_pe: str | None) -> None:
    case = tapped("qwen", vlm_pe, "3D_only" if vlm_pe else None)
    position = case.bundle.manifest.position
    slower = dataclasses.replace(position.text, inv_freq=tuple(0.99 * f for f in position.text.inv_freq))
    manifest = dataclasses.replace(case.bundle.manifest, position=dataclasses.replace(position, text=slower))
    assert_named(against_reference(case, dataclasses.replace(case.bundle, manifest=manifest)), 6, 0)


def q_rows(spec: LanguageModelSpec) -> slice:
    return slice(0, spec.heads * spec.head_dim)


def k_rows(spec: LanguageModelSpec) -> slice:
    return slice(spec.heads * spec.head_dim, (spec.heads + spec.kv_heads) * spec.head_dim)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("rows", "kind"), [(q_rows, "query"), (k_rows, "key")])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_one_layer_off_by_a_percent(
    tapped: Tapped, tmp_path: Path, family: str, rows: Callable[[LanguageModelSpec], slice], kind: str, layer: int
) -> None:
    case = tapped(family)
    differences = weights_changed(case, tmp_path, layer, rows, lambda weight: weight * np.float32(1.01))
    assert_named(differences, 1, layer)
    assert f"({kind})" in describe(differences)


@pytest.mark.parametrize("layer", [0, 1])
def test_heads_projected_in_another_order(tapped: Tapped, tmp_path: Path, layer: int) -> None:
    case = tapped("llama")
    width = case.bundle.manifest.language_model.head_dim

    def reverse(weight: Array) -> Array:
        reversed_heads: Array = weight.reshape(-1, width, weight.shape[1])[::-1].reshape(weight.shape)
        return reversed_heads

    assert_named(weights_changed(case, tmp_path, layer, q_rows, reverse), 1, layer)


def weights_changed(
    case: Exported,
    folder: Path,
    layer: int,
    rows: Callable[[LanguageModelSpec], slice],
    change: Callable[[Array], Array],
) -> list[CheckpointDifference]:
    part = rows(case.bundle.manifest.language_model)

    def in_part(weight: Array) -> Array:
        weight[part] = change(weight[part])
        return weight

    name = f"model.layers.{layer}.self_attn.qkv_proj.weight"
    return against_reference(case, faults.with_weights(case.bundle, folder / "faulty", name, in_part))


def test_a_fault_behind_attention_shows_in_the_next_layer(tapped: Tapped, tmp_path: Path) -> None:
    """What follows checkpoint 9 of a layer has no number of its own."""
    case = tapped("qwen")
    name = "model.layers.0.self_attn.o_proj.weight"
    faulty = faults.with_weights(case.bundle, tmp_path / "faulty", name, lambda weight: weight * np.float32(1.01))
    assert_named(against_reference(case, faulty), 1, 1)
