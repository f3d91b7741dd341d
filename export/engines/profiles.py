"""How large each dynamic axis may be in a compiled graph: smallest, likeliest and largest size by letter.

Memory follows the largest sizes, the choice of kernels the likeliest. Letters as in `runtime.manifest`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from runtime.errors import SceneError
from runtime.manifest import EncoderSpec, Manifest

Range = tuple[int, int, int]  # smallest, likeliest, largest
Profiles = dict[str, dict[str, tuple[int, ...]]]  # name -> letter -> range

TEXT_ROOM = 512  # prompt positions beside the point tokens; the published prompts have 220 to 330
LIKELY_PROMPT = 800  # positions; the published example scene has 776
LIKELY_POINT_TOKENS = 700
LIKELY_CACHE = 1024  # rows that a decode step reads of a prompt of 800 and the layout so far
SMALLEST_CACHE = 512  # the runtime hands over at least this many rows, so smaller sizes need no kernels
SHARES = (1.0, 0.6, 0.25)  # a stage's voxels as a share of stage 0, at most: thin scenes shrink slowly at first
LIKELY_SHARES = (0.72, 0.28, 0.07)  # as measured on furnished rooms
MAX_BATCH, MAX_VOXELS = 256, 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest sizes that engines are to take."""

    max_batch: int = 1
    max_voxels: int = 65536  # of a scene, before the first pooling
    max_point_tokens: int = 1536
    max_length: int | None = None  # positions; None: the bundle's cache capacity


def plan_profiles(manifest: Manifest, limits: Limits) -> dict[str, Profiles]:
    """The profiles of each plan by name. Raises SceneError for limits that cannot be.

    The language model has two: prefill sees a prompt and no past (one row that is masked), decode one token. Compiled
    once it has both, else each plan one.
    """
    check_limits(limits, capacity := manifest.cache.capacity)
    length, batch = limits.max_length or capacity, (1, 1, limits.max_batch)
    prompt = _range(LIKELY_PROMPT, min(length, limits.max_point_tokens + TEXT_ROOM))
    past = (min(SMALLEST_CACHE, length), min(LIKELY_CACHE, length), length)
    decode: dict[str, tuple[int, ...]] = {"B": batch, "T": (1, 1, 1), "M": past}
    return {
        "encoder": {"encoder": _encoder_ranges(manifest.encoder, limits)},
        "language_model": {"prefill": {"B": batch, "T": prompt, "M": (1, 1, 1)}, "decode": decode},
        "prefill": {"prefill": {"B": batch, "S": prompt}},
        "decode": {"decode": decode},
    }


def _encoder_ranges(spec: EncoderSpec, limits: Limits) -> dict[str, tuple[int, ...]]:
    ranges: dict[str, tuple[int, ...]] = {}
    voxels = _voxels(spec, limits)
    for stage, (rows, width) in enumerate(zip(voxels, spec.patch_sizes, strict=True)):
        ranges[_rows_letter(stage, len(voxels))] = rows
        ranges[f"W{stage}"] = _range(min(width, rows[1]), min(width, rows[2]))
        # G patches of W voxels: a scene smaller than a patch is one patch of its own width (`attention_patches`)
        ranges[f"G{stage}"] = _range(math.ceil(rows[1] / width), math.ceil(rows[2] / width))
    return {"N0": voxels[0]} | ranges


def _voxels(spec: EncoderSpec, limits: Limits) -> list[Range]:
    """Rows of each stage; never more than the stage before has, for pooling only joins voxels.

    A stage must take `max_point_tokens` at least: each point token came from a voxel of its own.
    """
    likely = math.ceil(limits.max_voxels * 2 / 3)
    stages = [_range(likely, limits.max_voxels)]
    for stage in range(spec.stages - 2):
        place = min(stage, len(SHARES) - 1)  # models with more stages: as the last one measured
        largest = max(math.ceil(SHARES[place] * limits.max_voxels), limits.max_point_tokens)
        stages.append(_range(min(stages[-1][1], math.ceil(LIKELY_SHARES[place] * likely)), largest))
    if spec.stages > 1:
        stages.append(_range(min(LIKELY_POINT_TOKENS, stages[-1][1]), limits.max_point_tokens))
    return stages


def _range(likely: int, largest: int) -> Range:
    return 1, min(likely, largest), largest


def _rows_letter(stage: int, stages: int) -> str:
    return "P" if stage == stages - 1 else f"N{stage}"


def check_limits(limits: Limits, capacity: int) -> None:
    """Raise SceneError for limits that no bundle, or none with a cache of `capacity` positions, can have."""
    _check("--max_batch", limits.max_batch, MAX_BATCH, "sequences")
    _check("--max_voxels", limits.max_voxels, MAX_VOXELS, "voxels")
    _check("--max_point_tokens", limits.max_point_tokens, limits.max_voxels, "point tokens, no more than --max_voxels")
    if limits.max_length is not None and not 1 <= limits.max_length <= capacity:
        raise SceneError(
            f"--max_length is {limits.max_length}, but the bundle's cache has 1 to {capacity} positions. "
            f"For more, export again with a larger --max_length."
        )


def _check(option: str, value: int, largest: int, what: str) -> None:
    if not 1 <= value <= largest:
        raise SceneError(f"{option} is {value}, but 1 to {largest} {what} were expected.")
