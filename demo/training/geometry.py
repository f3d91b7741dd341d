"""The encoder's geometry for a batch of scenes, in torch on the training device.

The same tables as `runtime.points` makes for one scene, joined along the rows: row numbers count through the batch.
What differs is the order of voxels in the first stage (lexicographic here, by hash there), which changes no result,
and attention patches of a scene smaller than a patch, which are filled up and masked.
A scene at a time on the CPU takes 0.3 s; here a batch of 32 takes a few milliseconds.

Every device gets the same bits: scans stand on a grid of half millimetres, so many points lie on a voxel's border,
where the last bit decides. CUDA divides by a number on the host by multiplying with its reciprocal, and sums in an
order of its own; so here tensors are divided by tensors, and what is summed is added one after another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import product

import torch
from torch import Tensor

from export.modules.encoder import cells_per_axis, fourier_features
from runtime.manifest import EncoderSpec
from runtime.points.sampling import WORLD_SIZE

MARGIN = 2  # cells kept free around a scene's box, so that a neighbour's key never reaches another scene
SPAN = 1 << 11  # cells per axis that a key has room for
TABULATED = 6  # bits of an axis for which Hilbert codes are looked up; 300,000 cells


@dataclass(frozen=True, slots=True)
class Patches:
    """order [G, W] rows of each patch; valid [G, W] false where a patch is filled up; inverse [N], each row's own place
    of the G * W; extra [G * W - N], the places that are no row's own: their row is borrowed, or they are filled up."""

    order: Tensor
    valid: Tensor | None
    inverse: Tensor
    extra: Tensor


@dataclass(frozen=True, slots=True)
class Stage:
    """N voxels of all scenes.

    coords float32 [N, 3] in metres, scene [N]; neighbours int32 [N, 27], N where a cell is empty; patches by slot;
    children [M, stride**3] of the next stage's M voxels, and parent [N], the voxel of the next stage of each.
    """

    coords: Tensor
    scene: Tensor
    neighbours: Tensor
    patches: dict[int, Patches]
    children: Tensor | None = None
    parent: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Geometry:
    """All stages; of the last one the Fourier encoding of its cells [P, 63], and voxels of each scene [B]."""

    stages: list[Stage]
    encoding: Tensor
    counts: Tensor

    @property
    def last(self) -> Stage:
        """The stage whose voxels are the point tokens."""
        return self.stages[-1]


def voxelize(points: Tensor, scene: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Rows that stand for their voxels, sorted by scene and voxel, and the grid [N, 3] of these rows.

    points: float64 or float32 [R, 3] metres from the scene's smallest corner, scene: int64 [R]. Of the c points of a
    voxel number (C // 2) mod c is taken, C being the largest c of its scene, as `runtime.points.grid_sample` does.
    """
    size = points.new_full((), WORLD_SIZE / num_bins)  # on the points' device, see above
    grid = (points / size).floor().long().clamp(0, num_bins - 1)
    order, starts, counts = _groups(_keys(grid, scene))
    largest = torch.zeros(int(scene.max()) + 1, dtype=torch.long, device=scene.device)
    of_group = scene[order[starts]]
    largest.scatter_reduce_(0, of_group, counts, "amax")
    rows = order[starts + (largest[of_group] // 2) % counts]
    return rows, grid[rows]


def geometry(grid: Tensor, coords: Tensor, scene: Tensor, scenes: int, spec: EncoderSpec) -> Geometry:
    """Geometry of voxels [N, 3] sorted by scene and x, y, z; coords float32 [N, 3]; scene [N] in 0 .. scenes - 1."""
    stages: list[Stage] = []
    for stage in range(spec.stages):
        slots = {
            slot: attention_patches(
                curve_codes(grid, scene, scenes, spec.order[slot]), scene, scenes, spec.patch_sizes[stage]
            )
            for slot in spec.slots(stage)
        }
        own = Stage(coords, scene, neighbours(grid, scene), slots)
        if stage < spec.stages - 1:
            joined = pool(grid, scene, spec.stride[stage])
            own = replace(own, children=joined.children, parent=joined.parent)
            grid, coords, scene = joined.grid, _means(coords, joined.children, joined.counts), joined.scene
        stages.append(own)
    encoding = fourier_features(grid, cells_per_axis(spec))
    return Geometry(stages, encoding, torch.bincount(scene, minlength=scenes))


def neighbours(grid: Tensor, scene: Tensor) -> Tensor:
    """Row of each of the 27 cells around each voxel, int32 [N, 27]; N where it is empty. Voxels must be sorted.

    In memory the rows of one offset lie side by side, as neighbouring voxels look them up and as they are read.
    """
    keys = _keys(grid, scene)
    steps = torch.tensor(list(product((-1, 0, 1), repeat=3)), device=grid.device)
    wanted = keys + ((steps[:, 0] * SPAN + steps[:, 1]) * SPAN + steps[:, 2])[:, None]  # [27, N]
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, place, len(keys)).int().t()


@dataclass(frozen=True, slots=True)
class Pooling:
    """M coarse voxels: children [M, stride**3], where a missing one repeats the last real one, and their counts [M];
    grid [M, 3], scene [M]; parent [N] of each fine voxel."""

    children: Tensor
    counts: Tensor
    grid: Tensor
    scene: Tensor
    parent: Tensor


def pool(grid: Tensor, scene: Tensor, stride: int) -> Pooling:
    """Join voxels [N, 3] of a scene whose coordinates agree after division by `stride`."""
    cells = grid // stride
    order, starts, counts = _groups(_keys(cells, scene))
    slot = torch.minimum(torch.arange(stride**3, device=grid.device), counts[:, None] - 1)
    first, groups = order[starts], torch.arange(len(starts), device=grid.device)
    parent = torch.empty_like(order)
    parent[order] = torch.repeat_interleave(groups, counts, output_size=len(order))
    return Pooling(order[starts[:, None] + slot], counts, cells[first], scene[first], parent)


def curve_codes(grid: Tensor, scene: Tensor, scenes: int, curve: str) -> Tensor:
    """Position of each voxel on its scene's curve, int64 [N]; the curve's depth is the scene's own."""
    if curve.endswith("-trans"):
        grid = grid[:, [1, 0, 2]]
    if not curve.startswith("hilbert"):
        return _morton_table(grid.device)[grid].mul_(_axis_weights(grid.device)).sum(1)
    x, y, z = grid.unbind(1)
    largest = torch.zeros(scenes, dtype=torch.long, device=grid.device)
    largest.scatter_reduce_(0, scene, grid.amax(dim=1) + 1, "amax")
    powers = 1 << torch.arange(11, device=grid.device)  # compared, not a logarithm: a GPU's of 8 can be 2.9999...
    depth = (largest[:, None] >= powers).sum(1)[scene]  # bits of the largest coordinate plus one
    if int(depth.max()) > TABULATED:
        return _hilbert([x, y, z], depth)
    codes, starts = _hilbert_tables(grid.device)
    return codes[starts[depth] + (((x << depth) + y) << depth) + z]


def attention_patches(codes: Tensor, scene: Tensor, scenes: int, patch_size: int) -> Patches:
    """Every scene's voxels along its curve, cut into patches; the last patch of a scene holds its last W voxels.

    A scene of fewer voxels than W has one patch, filled up with its first voxel.
    """
    counts = torch.bincount(scene, minlength=scenes)  # [B]
    width = min(patch_size, int(counts.max()))
    patches = -(-counts // width)  # [B]
    first_row = counts.cumsum(0) - counts
    first_patch = patches.cumsum(0) - patches
    along = torch.argsort(scene << 42 | codes)  # rows, scene after scene
    of_patch = torch.repeat_interleave(torch.arange(scenes, device=codes.device), patches)  # [G]
    start = (torch.arange(len(of_patch), device=codes.device) - first_patch[of_patch]) * width
    place = start[:, None] + torch.arange(width, device=codes.device)  # [G, W] along the scene's curve
    count = counts[of_patch][:, None]
    place = torch.where((place >= count) & (count > width), place - width, place)
    valid = place < count
    order = along[first_row[of_patch][:, None] + torch.where(valid, place, 0)]
    inverse = torch.empty_like(along)
    own = torch.arange(len(along), device=codes.device) - first_row[scene[along]]
    inverse[along] = first_patch[scene[along]] * width + own
    return Patches(order, None if bool(valid.all()) else valid, inverse, other_places(inverse, order.numel()))


def other_places(inverse: Tensor, places: int) -> Tensor:
    """The numbers below `places` that are not in `inverse`, whose numbers differ."""
    is_other = torch.ones(places, dtype=torch.bool, device=inverse.device).index_fill_(0, inverse, False)
    return is_other.nonzero()[:, 0]


def _keys(grid: Tensor, scene: Tensor) -> Tensor:
    """One number for each voxel, in the order of scene, x, y, z."""
    x, y, z = (grid + MARGIN).unbind(1)
    return ((scene * SPAN + x) * SPAN + y) * SPAN + z


def _groups(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows sorted by key (stable), where each group starts, and how many rows it has."""
    ordered, rows = torch.sort(keys, stable=True)
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    return rows, counts.cumsum(0) - counts, counts


def _means(coords: Tensor, children: Tensor, counts: Tensor) -> Tensor:
    real = torch.arange(children.shape[1], device=coords.device) < counts[:, None]
    return reduce(torch.add, (coords[children] * real[..., None]).unbind(1)) / counts[:, None].float()


def _interleave(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return _spread(x) << 2 | _spread(y) << 1 | _spread(z)


def _spread(value: Tensor) -> Tensor:
    """Bit i of 10 bits to bit 3i: coordinates are below 1024."""
    value = (value | value << 16) & 0x30000FF
    value = (value | value << 8) & 0x300F00F
    value = (value | value << 4) & 0x30C30C3
    return (value | value << 2) & 0x9249249


@cache
def _morton_table(device: torch.device) -> Tensor:
    """Bit i of every number below 1024 at bit 3i. A read, where shifting takes 36 launches."""
    return _finished(_spread(torch.arange(1024, device=device)))


@cache
def _axis_weights(device: torch.device) -> Tensor:
    return _finished(torch.tensor([4, 2, 1], device=device))


def _finished(table: Tensor) -> Tensor:
    """The table, when it is written: whoever reads it may do so on another stream than its first user's."""
    if table.is_cuda:
        torch.cuda.current_stream(table.device).synchronize()
    return table


@cache
def _hilbert_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Codes of every cell for each depth up to TABULATED, and where a depth's codes start: one read for a voxel."""
    tables = [torch.zeros(1, dtype=torch.long, device=device)]
    for depth in range(1, TABULATED + 1):
        cell = torch.arange(1 << 3 * depth, device=device)
        low = (1 << depth) - 1
        tables.append(_hilbert([cell >> 2 * depth, cell >> depth & low, cell & low], torch.full_like(cell, depth)))
    sizes = torch.tensor([len(table) for table in tables], device=device)
    return _finished(torch.cat(tables)), _finished(sizes.cumsum(0) - sizes)


def _hilbert(axes: list[Tensor], depth: Tensor) -> Tensor:
    """J. Skilling's transform with a depth for each voxel: bits at and above it are left alone."""
    axes = [axis.clone() for axis in axes]
    for bit in range(int(depth.max()) - 1, 0, -1):
        lower = torch.where(depth > bit, (1 << bit) - 1, 0)
        for index, axis in enumerate(axes):
            is_set = -(axis >> bit & 1)
            exchange = (axes[0] ^ axis) & lower & ~is_set
            if index:
                axes[index] = axis ^ exchange
            axes[0] = axes[0] ^ exchange ^ (lower & is_set)
    code, shift = _interleave(*axes), 1
    while shift < 3 * 10:
        code = code ^ code >> shift
        shift *= 2
    return code
