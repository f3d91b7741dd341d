"""Ranges of the dynamic axes: within bounds, in order, of every letter that the graphs use."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.engines.profiles import MAX_BATCH, MAX_VOXELS, Limits, plan_profiles
from runtime.engines.plans import SOURCES
from runtime.errors import SceneError
from runtime.manifest import CacheSpec, EncoderSpec, Manifest
from runtime.points.stages import attention_patches
from tests.exported import Export


@pytest.fixture(scope="module")
def manifest(exported: Export) -> Manifest:
    """The tiny bundle's, with the real encoder's patches and a long cache."""
    manifest = exported("qwen").bundle.manifest
    encoder = replace(manifest.encoder, patch_sizes=(1024,) * manifest.encoder.stages)
    return replace(manifest, encoder=encoder, cache=CacheSpec(layout="MBKD", capacity=8192))


def with_stages(manifest: Manifest, stages: int) -> Manifest:
    """The same with another number of encoder stages; only what the ranges read is changed."""
    spec = manifest.encoder
    encoder: EncoderSpec = replace(spec, depths=(2,) * stages, patch_sizes=(spec.patch_sizes[0],) * stages)
    return replace(manifest, encoder=encoder)


def test_the_defaults(manifest: Manifest) -> None:
    profiles = plan_profiles(manifest, Limits())
    assert {plan: list(found) for plan, found in profiles.items()} == {
        "encoder": ["encoder"],
        "language_model": ["prefill", "decode"],
        "prefill": ["prefill"],
        "decode": ["decode"],
    }
    assert profiles["language_model"] == {
        "prefill": {"B": (1, 1, 1), "T": (1, 800, 2048), "M": (1, 1, 1)},
        "decode": {"B": (1, 1, 1), "T": (1, 1, 1), "M": (512, 1024, 8192)},
    }
    assert profiles["prefill"]["prefill"] == {"B": (1, 1, 1), "S": (1, 800, 2048)}
    assert profiles["decode"]["decode"] == profiles["language_model"]["decode"]
    assert profiles["encoder"]["encoder"] == {
        "N0": (1, 43691, 65536),
        "N1": (1, 31458, 65536),
        "N2": (1, 12234, 39322),
        "N3": (1, 3059, 16384),
        "P": (1, 700, 1536),
        **{f"W{stage}": (1, 1024, 1024) for stage in range(4)},
        "W4": (1, 700, 1024),
        "G0": (1, 43, 64),
        "G1": (1, 31, 64),
        "G2": (1, 12, 39),
        "G3": (1, 3, 16),
        "G4": (1, 1, 2),
    }


@given(
    limits=st.tuples(st.integers(1, MAX_BATCH), st.integers(1, MAX_VOXELS), st.data()),
    stages=st.integers(2, 7),
    capacity=st.integers(1, 1 << 20),
    patch=st.integers(1, 4096),
)
def test_any_limits(
    manifest: Manifest, limits: tuple[int, int, st.DataObject], stages: int, capacity: int, patch: int
) -> None:
    batch, voxels, data = limits
    points, length = data.draw(st.integers(1, voxels)), data.draw(st.integers(1, capacity))
    changed = with_stages(replace(manifest, cache=CacheSpec(layout="MBKD", capacity=capacity)), stages)
    changed = replace(changed, encoder=replace(changed.encoder, patch_sizes=(patch,) * stages))
    chosen = Limits(max_batch=batch, max_voxels=voxels, max_point_tokens=points, max_length=length)
    profiles = plan_profiles(changed, chosen)
    ranges, prefill, decode = profiles["encoder"]["encoder"], *profiles["language_model"].values()
    for profile in (ranges, prefill, decode):
        assert all(1 <= low <= likely <= high for low, likely, high in profile.values())
    assert (ranges["N0"][2], ranges["P"][2], decode["M"][2]) == (voxels, points, length)
    assert prefill["B"] == decode["B"] == (1, 1, batch)
    assert min(points, length) <= prefill["T"][2] <= length
    assert prefill["M"] == decode["T"] == (1, 1, 1)
    rows = [ranges[f"N{stage}"] for stage in range(stages - 1)] + [ranges["P"]]
    for finer, coarser in pairwise(rows):
        assert finer[1] >= coarser[1] and finer[2] >= coarser[2], "pooling only joins voxels"
    for stage, each in enumerate(rows):
        patches, widths = ranges[f"G{stage}"], ranges[f"W{stage}"]
        for kind in (1, 2):
            assert patches[kind] * patch >= each[kind] > (patches[kind] - 1) * patch
            assert widths[kind] == min(patch, each[kind])


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 100])
def test_patches_of_real_scenes_lie_inside(manifest: Manifest, count: int) -> None:
    """Every scene of at most the largest size gives orders [G, W] within the ranges."""
    small = replace(manifest, encoder=replace(manifest.encoder, patch_sizes=(8,) * manifest.encoder.stages))
    ranges = plan_profiles(small, Limits(max_voxels=100, max_point_tokens=50))["encoder"]["encoder"]
    order = attention_patches(np.arange(count), 8).order
    for letter, size in zip(("G0", "W0"), order.shape, strict=True):
        assert ranges[letter][0] <= size <= ranges[letter][2]


def test_every_letter_of_the_graphs_has_a_range(exported: Export) -> None:
    bundle = exported("llama").bundle
    profiles = plan_profiles(bundle.manifest, Limits())
    assert profiles.keys() == SOURCES.keys()
    for plan, source in SOURCES.items():
        letters = {
            axis.dim_param
            for tensor in onnx.load(bundle.graph(source), load_external_data=False).graph.input
            for axis in tensor.type.tensor_type.shape.dim
            if axis.dim_param
        }
        assert all(ranges.keys() == letters for ranges in profiles[plan].values()), plan


def test_a_short_cache(manifest: Manifest) -> None:
    for length, past in ((300, (300, 300, 300)), (700, (512, 700, 700))):
        profiles = plan_profiles(manifest, Limits(max_length=length))["language_model"]
        assert (profiles["decode"]["M"], profiles["prefill"]["T"]) == (past, (1, length, length))


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(max_batch=0), r"--max_batch is 0, but 1 to 256 sequences were expected\."),
        (Limits(max_batch=257), r"--max_batch is 257, but"),
        (Limits(max_voxels=-5), r"--max_voxels is -5, but 1 to 4194304 voxels were expected\."),
        (Limits(max_voxels=1 << 40), r"--max_voxels is 1099511627776, but"),
        (
            Limits(max_point_tokens=0),
            r"--max_point_tokens is 0, but 1 to 65536 point tokens, no more than --max_voxels",
        ),
        (Limits(max_voxels=1000), r"--max_point_tokens is 1536, but 1 to 1000 point tokens, no more than --max_voxels"),
        (Limits(max_length=0), r"--max_length is 0, but the bundle's cache has 1 to 8192 positions\."),
        (Limits(max_length=8193), r"--max_length is 8193, but .*For more, export again with a larger --max_length\."),
    ],
    ids=str,
)
def test_nonsense_is_refused(manifest: Manifest, limits: Limits, sentence: str) -> None:
    with pytest.raises(SceneError, match=sentence):
        plan_profiles(manifest, limits)
