"""The literal 3D table: measured values, the rules of both revisions, and the same table from data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint import ModelConfig
from export.reference.tables import normalize, point_table, split_head
from export.rope import position_spec
from runtime.rope import normalize_coords, rope_table
from tests.compare import Tol, assert_close
from tests.modules.tiny import tiny_config

ROUNDING = Tol(5e-6, why="float32 angles up to 30 rad")


def config_of(head_dim: int, merge_rule: str, variant: str = "PE-A", **changes: Any) -> ModelConfig:
    config = tiny_config(vlm_pe="3D_RoPE", merge_rule=merge_rule, variant=variant, **changes)
    return dataclasses.replace(config, language_model=dataclasses.replace(config.language_model, head_dim=head_dim))


@pytest.mark.parametrize(
    ("variant", "merge_rule", "sizes"),
    [
        ("PE-A", "3D_only", (0, 21, 21, 22)),
        ("PE-A", "3D_with_1D", (32, 10, 10, 12)),
        ("PE-B", "3D_only", (0, 20, 22, 22)),
        ("PE-B", "3D_with_1D", (64, 0, 0, 0)),
    ],
)
def test_split_of_a_head_of_64(variant: str, merge_rule: str, sizes: tuple[int, ...]) -> None:
    assert split_head(config_of(64, merge_rule, variant)) == sizes


@pytest.mark.parametrize("merge_rule", ["3D_only", "3D_with_1D"])
@pytest.mark.parametrize("variant", ["PE-A", "PE-B"])
@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 128])
def test_a_split_uses_the_whole_head(head_dim: int, variant: str, merge_rule: str) -> None:
    assert sum(split_head(config_of(head_dim, merge_rule, variant))) == head_dim


def test_measured_values_of_3d_only() -> None:
    cos, sin = corner_table("3D_only", start=15)
    expected = [0.9689124, 0.9689124, 0.9945980, 1.0, 0.8775826, 0.5403023]
    assert_close("cos", cos[[0, 1, 2, 20, 21, 42]], expected, Tol(1e-6))
    assert_close("sin", sin[[0, 2, 21, 42]], [0.2474040, 0.1038017, 0.4794255, 0.8414710], Tol(1e-6))


def test_measured_values_of_3d_with_1d() -> None:
    cos, sin = corner_table("3D_with_1D", start=15)
    expected = [-0.7596879, -0.5489755, 0.9988752, 0.9689124, 0.8775826, 0.5403023]
    assert_close("cos", cos[[0, 2, 20, 32, 42, 52]], expected, Tol(1e-6))
    assert_close("sin", sin[[0, 2, 20]], [0.6502879, 0.8358384, 0.0474164], Tol(1e-6))


def corner_table(merge_rule: str, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of a point that normalizes to (0.25, 0.5, 1): the origin and the far corner fix the scale."""
    coords = torch.tensor([[0.25, 0.5, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    table = point_table(config_of(64, merge_rule), coords, start)
    assert table is not None
    return table[0][0], table[1][0]


@pytest.mark.parametrize("merge_rule", ["3D_only", "3D_with_1D"])
@pytest.mark.parametrize("variant", ["PE-A", "PE-B"])
@pytest.mark.parametrize("head_dim", [16, 64])
def test_the_table_from_data_is_the_literal_one(head_dim: int, variant: str, merge_rule: str) -> None:
    config = config_of(head_dim, merge_rule, variant, pcd_theta=500.0)
    coords = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([7.0, 5.0, 3.0])
    literal = point_table(config, coords, 15)
    spec = position_spec(config, "full").points
    assert literal is not None
    assert spec is not None
    from_data = rope_table(np.arange(15, 55), normalize_coords(coords.numpy()).coords, spec)
    for name, got, want in zip(("cos", "sin"), from_data, literal, strict=True):
        assert_close(name, got, want, ROUNDING)


def test_one_scale_keeps_the_aspect_ratio() -> None:
    coords = torch.tensor([[1.0, 1.0, 2.0], [5.0, 3.0, 3.0]])
    assert_close("normalized", normalize(coords), [[0, 0, 0], [1, 0.5, 0.25]], Tol(1e-7))


def test_a_single_patch_is_the_origin() -> None:
    assert_close("normalized", normalize(torch.tensor([[3.0, 4.0, 5.0]])), [[0, 0, 0]], Tol(0))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_coordinates_that_are_not_finite_are_skipped_with_a_warning(bad: float) -> None:
    with pytest.warns(UserWarning, match="patch_coords holds NaN or Inf: 3D RoPE is skipped"):
        assert point_table(config_of(64, "3D_only"), torch.tensor([[0.0, 1.0, 2.0], [bad, 1.0, 2.0]]), 3) is None
