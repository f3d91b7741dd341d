"""Everything the encoder graph is fed, from the voxels of a scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runtime.arrays import Array
from runtime.manifest import EncoderSpec
from runtime.points.curves import curve_codes, curve_depth
from runtime.points.sampling import VoxelGrid
from runtime.points.stages import attention_patches, neighbour_rows, pool


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderInputs:
    """The encoder's feeds and what the host knows beside them.

    feeds, in this order:
      features           float32 [N0, 6]
      for each stage s, of Ns voxels:
        neighbours.s     int32 [Ns, 27]; column a*9 + b*3 + c is the cell at (a-1, b-1, c-1); Ns where it is empty
        order.s.slot     int32 [G, W]; rows of each attention patch, W = min(Ns, patch size)
        inverse.s.slot   int32 [Ns]; where each voxel's own output stands in the flattened G * W
        children.s       int32 [N(s+1), stride ** 3]; not for the last stage
      grid               int32 [P, 3], cells of the last stage
    patch_coords: float32 [P, 3], metres from the cloud's smallest corner; row p belongs to point token p.
    voxel_counts: voxels of each stage, the last being P.
    """

    feeds: dict[str, Array]
    patch_coords: Array
    voxel_counts: tuple[int, ...]


def encoder_inputs(voxels: VoxelGrid, spec: EncoderSpec) -> EncoderInputs:
    """Geometry of all stages. Slot j always has curve spec.order[j]; the original draws that anew on each call."""
    feeds: dict[str, Array] = {"features": voxels.features}
    grid, coords, counts = voxels.grid, voxels.coords, [len(voxels)]
    for stage in range(spec.stages):
        feeds |= _stage_feeds(grid, stage, spec)
        if stage == spec.stages - 1:
            break
        pooling = pool(grid, spec.stride[stage])
        feeds[f"children.{stage}"] = pooling.children
        grid, coords = pooling.grid, pooling.mean(coords)
        counts.append(len(grid))
    feeds["grid"] = grid
    return EncoderInputs(feeds=feeds, patch_coords=coords, voxel_counts=tuple(counts))


def _stage_feeds(grid: Array, stage: int, spec: EncoderSpec) -> Iterator[tuple[str, Array]]:
    yield f"neighbours.{stage}", neighbour_rows(grid)
    depth = curve_depth(grid)
    for slot in spec.slots(stage):
        patches = attention_patches(curve_codes(grid, spec.order[slot], depth), spec.patch_sizes[stage])
        yield f"order.{stage}.{slot}", patches.order
        yield f"inverse.{stage}.{slot}", patches.inverse
