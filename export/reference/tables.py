"""The 3D rotary table of point tokens, computed step by step as the model was trained.

Two revisions of the encoding exist. They differ in how the head is split over (position, x, y, z), in the base of the
frequencies, and in how a part's frequencies fill its entries:

    PE-A   thirds, the rest to z          base 10000 everywhere                        a0 a0 a1 a1 ...
    PE-B   even chunks, the rest to z, y  rope_theta for the position, else pcd_theta  a0 a1 ... a0 a1 ...
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from export.checkpoint.config import ModelConfig

BASE = 10000.0


def normalize(patch_coords: Tensor) -> Tensor:
    """Coordinates in [0, 1] with one scale for the three axes, so that the aspect ratio is kept: [P, 3] -> [P, 3]."""
    low, max_range = patch_coords.amin(dim=0), largest_range(patch_coords)
    return (patch_coords - low) / (max_range + 1e-8)


def largest_range(patch_coords: Tensor) -> Tensor:
    """The largest extent over the three axes, a scalar."""
    return (patch_coords.amax(dim=0) - patch_coords.amin(dim=0)).max()


def point_table(config: ModelConfig, patch_coords: Tensor, start: int) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines [P, D] float32 of the point tokens; shared by all heads, by queries and by keys.

    `patch_coords` [P, 3] float32 in metres, `start` the merged position of the first point token. None, with a
    warning, when a coordinate is not finite: the 3D encoding is then skipped.
    """
    if not torch.isfinite(patch_coords).all():
        warnings.warn("patch_coords holds NaN or Inf: 3D RoPE is skipped for this cloud", stacklevel=2)
        return None
    position = torch.arange(start, start + len(patch_coords), dtype=torch.float32)
    values = [position, *normalize(patch_coords).unbind(dim=1)]  # four of [P]
    sizes, bases = split_head(config), _bases(config)
    parts = [
        _expand(_angles(value, size, base), size, interleaved=config.variant == "PE-A")
        for value, size, base in zip(values, sizes, bases, strict=True)
        if size
    ]
    angles = torch.cat(parts, dim=-1)  # [P, D]
    return angles.cos(), angles.sin()


def split_head(config: ModelConfig) -> tuple[int, int, int, int]:
    """Entries of the head given to (position, x, y, z)."""
    head = config.language_model.head_dim
    with_position = config.merge_rule == "3D_with_1D"
    if config.variant == "PE-A":
        position = head // 2 if with_position else 0
        third = (head - position) // 3
        return position, third, third, head - position - 2 * third
    if with_position:
        return head, 0, 0, 0
    chunks, rest = divmod(head // 2, 3)  # chunks of two entries; of those left over z takes the first, y the second
    return 0, 2 * chunks, 2 * (chunks + (rest == 2)), 2 * (chunks + (rest >= 1))


def _bases(config: ModelConfig) -> tuple[float, float, float, float]:
    if config.variant == "PE-A":
        return BASE, BASE, BASE, BASE
    return config.rope_theta, config.pcd_theta, config.pcd_theta, config.pcd_theta


def _angles(value: Tensor, size: int, base: float) -> Tensor:
    """[P] -> [P, ceil(size / 2)], angle_j = value * base ** (-2j / size)."""
    inv_freq = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return value[:, None] * inv_freq


def _expand(angles: Tensor, size: int, *, interleaved: bool) -> Tensor:
    """Each angle twice, cut to `size` entries (of an odd part, one angle stands once)."""
    twice = torch.stack([angles, angles], dim=-1).flatten(1) if interleaved else torch.cat([angles, angles], dim=-1)
    return twice[:, :size]
