"""What SPATIALLM_VERBOSE=1 prints during prefill."""

from __future__ import annotations

import os

from torch import Tensor

from export.reference.tables import largest_range, normalize


def is_verbose() -> bool:
    """Read at each call, so that a program or a test can switch it on late."""
    return os.environ.get("SPATIALLM_VERBOSE", "0").lower() in ("1", "true", "yes")


def report(line: str, **tensors: Tensor) -> None:
    """One line, then the shape of each named tensor."""
    print(line)
    for name, tensor in tensors.items():
        print(f"  {name}.shape: {tensor.shape}")


def report_coordinates(patch_coords: Tensor) -> None:
    """The ranges of a cloud's patch coordinates [P, 3] before and after normalization."""
    max_range = largest_range(patch_coords).item()
    print(f"[3D PE] Original patch_coords range: {_ranges(patch_coords)}")
    print(f"[3D PE] Normalized with max_range={max_range:.3f}, final range: {_ranges(normalize(patch_coords))}")


def _ranges(coords: Tensor) -> str:
    limits = zip("XYZ", coords.amin(dim=0).tolist(), coords.amax(dim=0).tolist(), strict=True)
    return ", ".join(f"{axis}=[{low:.3f}, {high:.3f}]" for axis, low, high in limits)
