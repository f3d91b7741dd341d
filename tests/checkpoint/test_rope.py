"""Frequencies: the model's own against transformers, the 3D encoding against values measured on the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.checkpoint import ModelConfig, open_checkpoint
from export.rope import head_widths, position_spec
from runtime.errors import CheckpointError
from runtime.manifest import RopeSpec

Tiny = Callable[..., Path]
HEAD_DIMS = [16, 32, 48, 64, 128]


def with_head(config: ModelConfig, head_dim: int, **changes: Any) -> ModelConfig:
    model = dataclasses.replace(config.language_model, head_dim=head_dim)
    return dataclasses.replace(config, language_model=model, **changes)


@pytest.fixture
def qwen(tiny_checkpoint: Tiny) -> ModelConfig:
    return open_checkpoint(tiny_checkpoint("qwen"), vlm_pe="3D_RoPE").config


@pytest.fixture
def llama(tiny_checkpoint: Tiny) -> ModelConfig:
    return open_checkpoint(tiny_checkpoint("llama"), vlm_pe="3D_RoPE").config


def table(spec: RopeSpec, values: tuple[float, float, float, float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """cos and sin [D], float32, of one token whose (position, x, y, z) are `values`."""
    angles = np.float32(values)[list(spec.axis)] * np.float32(spec.inv_freq)
    assert angles.dtype == np.float32
    return np.cos(angles), np.sin(angles)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_text_frequencies_are_those_of_transformers(family: str, head_dim: int, request: pytest.FixtureRequest) -> None:
    config = with_head(request.getfixturevalue(family), head_dim)
    heads = {"hidden_size": 4 * head_dim, "num_attention_heads": 4, "head_dim": head_dim}
    if family == "qwen":
        from transformers import Qwen2Config
        from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding as Rotary

        other = Qwen2Config(rope_theta=config.rope_theta, **heads)
    else:
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding as Rotary

        assert config.rope_scaling is not None
        other = LlamaConfig(rope_theta=config.rope_theta, rope_scaling=dict(config.rope_scaling), **heads)
    rotary = Rotary(other)
    want = torch.cat([rotary.inv_freq, rotary.inv_freq]).numpy()
    text = position_spec(config, "causal").text
    assert np.array_equal(np.float32(text.inv_freq), want)
    assert [float(np.float32(value)) for value in text.inv_freq] == list(text.inv_freq)  # float32 loses nothing
    assert text.axis == (0,) * head_dim
    assert text.scaling == rotary.attention_scaling


def test_llama3_scaling_changes_slow_channels_only(llama: ModelConfig) -> None:
    scaled = position_spec(llama, "causal").text.inv_freq
    plain = position_spec(dataclasses.replace(llama, rope_scaling=None), "causal").text.inv_freq
    ratio = np.float64(scaled[:32]) / np.float64(plain[:32])
    assert (ratio[:14] == 1).all()
    np.testing.assert_allclose(ratio[-8:], 1 / 32, rtol=1e-6)
    assert ((ratio[14:18] > 1 / 32) & (ratio[14:18] < 1)).any()


COS_3D_ONLY = {0: 0.9689124, 1: 0.9689124, 2: 0.9945980, 20: 1.0, 21: 0.8775826, 42: 0.5403023}
SIN_3D_ONLY = {0: 0.2474040, 2: 0.1038017, 21: 0.4794255, 42: 0.8414710}
COS_WITH_1D = {0: -0.7596879, 2: -0.5489755, 20: 0.9988752, 32: 0.9689124, 42: 0.8775826, 52: 0.5403023}
SIN_WITH_1D = {0: 0.6502879, 2: 0.8358384, 20: 0.0474164}


@pytest.mark.parametrize(
    ("rule", "cosines", "sines"), [("3D_only", COS_3D_ONLY, SIN_3D_ONLY), ("3D_with_1D", COS_WITH_1D, SIN_WITH_1D)]
)
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_pe_a_gives_the_originals_values(
    family: str, rule: str, cosines: dict[int, float], sines: dict[int, float], request: pytest.FixtureRequest
) -> None:
    config = dataclasses.replace(request.getfixturevalue(family), merge_rule=rule)
    points = position_spec(config, "full").points
    assert points is not None
    cos, sin = table(points, (15, 0.25, 0.5, 1.0))
    for channel, want in cosines.items():
        assert cos[channel] == pytest.approx(want, abs=1e-6)
    for channel, want in sines.items():
        assert sin[channel] == pytest.approx(want, abs=1e-6)


def test_an_odd_part_drops_the_last_copy(qwen: ModelConfig) -> None:
    points = position_spec(qwen, "causal").points
    assert points is not None
    x = points.inv_freq[:21]
    assert x[0:20:2] == x[1:21:2]
    assert len(set(x)) == 11
    assert x[20] == float(1.0 / 10000.0 ** (torch.tensor(20.0) / 21))


@pytest.mark.parametrize(
    ("variant", "rule", "head_dim", "widths"),
    [
        ("PE-A", "3D_only", 16, (0, 5, 5, 6)),
        ("PE-A", "3D_only", 32, (0, 10, 10, 12)),
        ("PE-A", "3D_only", 48, (0, 16, 16, 16)),
        ("PE-A", "3D_only", 64, (0, 21, 21, 22)),
        ("PE-A", "3D_only", 128, (0, 42, 42, 44)),
        ("PE-A", "3D_with_1D", 16, (8, 2, 2, 4)),
        ("PE-A", "3D_with_1D", 32, (16, 5, 5, 6)),
        ("PE-A", "3D_with_1D", 64, (32, 10, 10, 12)),
        ("PE-A", "3D_with_1D", 128, (64, 21, 21, 22)),
        ("PE-B", "3D_only", 16, (0, 4, 6, 6)),
        ("PE-B", "3D_only", 32, (0, 10, 10, 12)),
        ("PE-B", "3D_only", 48, (0, 16, 16, 16)),
        ("PE-B", "3D_only", 64, (0, 20, 22, 22)),
        ("PE-B", "3D_only", 128, (0, 42, 42, 44)),
        ("PE-B", "3D_with_1D", 64, (64, 0, 0, 0)),
    ],
)
def test_head_widths(variant: str, rule: str, head_dim: int, widths: tuple[int, ...]) -> None:
    assert head_widths(head_dim, rule, variant) == widths


@pytest.mark.parametrize("variant", ["PE-A", "PE-B"])
@pytest.mark.parametrize("rule", ["3D_only", "3D_with_1D"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_parts_start_at_frequency_one_and_fill_the_head(
    qwen: ModelConfig, head_dim: int, rule: str, variant: str
) -> None:
    points = position_spec(with_head(qwen, head_dim, merge_rule=rule, variant=variant), "causal").points
    assert points is not None
    assert len(points.axis) == len(points.inv_freq) == head_dim
    assert list(points.axis) == sorted(points.axis)
    widths = head_widths(head_dim, rule, variant)
    assert tuple(points.axis.count(axis) for axis in range(4)) == widths
    for axis in set(points.axis):
        assert points.inv_freq[points.axis.index(axis)] == 1.0


def test_pe_b_repeats_halves_and_reads_its_theta(qwen: ModelConfig) -> None:
    config = dataclasses.replace(qwen, variant="PE-B", pcd_theta=100.0)
    points = position_spec(config, "causal").points
    assert points is not None
    y = points.inv_freq[20:42]
    assert y[:11] == y[11:]
    np.testing.assert_allclose(y[:11], 100.0 ** (-2 * np.arange(11) / 22), rtol=1e-6)


def test_pe_b_with_1d_is_the_models_own_rope_without_scaling(qwen: ModelConfig, llama: ModelConfig) -> None:
    for config in (qwen, llama):
        spec = position_spec(dataclasses.replace(config, variant="PE-B", merge_rule="3D_with_1D"), "causal")
        plain = position_spec(dataclasses.replace(config, rope_scaling=None), "causal")
        assert spec.points == plain.text


def test_without_3d_the_points_have_no_spec_of_their_own(tiny_checkpoint: Tiny) -> None:
    config = open_checkpoint(tiny_checkpoint("qwen"), vlm_pe=None).config
    spec = position_spec(config, "causal")
    assert (spec.points, spec.variant, spec.merge_rule, spec.vlm_pe) == (None, None, None, None)
    with pytest.raises(CheckpointError, match="full is refused with VLM_PE=None"):
        position_spec(config, "full")


def test_refusals(qwen: ModelConfig) -> None:
    with pytest.raises(CheckpointError, match="'causal' or 'full' was expected"):
        position_spec(qwen, "sometimes")
    with pytest.raises(CheckpointError, match="'yarn', but only 'default' and 'llama3'"):
        position_spec(dataclasses.replace(qwen, rope_scaling={"rope_type": "yarn"}), "causal")
    with pytest.raises(CheckpointError, match="head_dim 4 is too narrow"):
        position_spec(with_head(qwen, 4, variant="PE-B"), "causal")
