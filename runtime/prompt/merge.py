"""The prompt with room for the cloud: where its tokens stand among the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.errors import BundleError, SceneError
from runtime.manifest import PromptSpec


@dataclass(frozen=True, slots=True, eq=False)
class MergedPrompt:
    """One prompt of S positions, P of them point tokens in one block."""

    input_ids: Array  # [S] int32; the point token's id where a point token stands
    point_mask: Array  # [S] bool
    point_start: int  # position of the first point token, right after the start marker
    num_points: int  # P

    @property
    def length(self) -> int:
        """S."""
        return len(self.input_ids)


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """B prompts, filled up on the right to the longest."""

    input_ids: Array  # [B, S] int32; a prompt's last id where it is filled up
    point_mask: Array  # [B, S] bool, False where it is filled up
    lengths: Array  # [B] int32, valid positions
    positions: Array  # [S] int32: 0 .. S - 1, the same for every prompt
    point_starts: Array  # [B] int32
    point_counts: Array  # [B] int32


def merge_prompt(ids: Array, num_points: int, spec: PromptSpec) -> MergedPrompt:
    """Put P point tokens between the start and the end marker of `ids` [L] int32, in place of what stands there.

    Both markers stay, so S = L - (end - start - 1) + P. Raises BundleError unless each marker is there exactly once,
    start before end, and SceneError for a cloud without points.
    """
    start = _position(ids, spec.point_start_token_id, "point_start")
    end = _position(ids, spec.point_end_token_id, "point_end")
    if end < start:
        raise BundleError(
            f"The prompt has the point_end token at position {end}, before the point_start token at {start}. "
            "The chat template or the manifest's token ids are wrong; export the bundle again."
        )
    if num_points < 1:
        raise SceneError(f"The cloud gave {num_points} point tokens, but at least 1 was expected. Is the scene empty?")
    points = np.full(num_points, spec.point_token_id)
    input_ids = np.concatenate([ids[: start + 1], points, ids[end:]]).astype(np.int32)  # [L] -> [S]
    point_mask = np.zeros(len(input_ids), dtype=np.bool_)
    point_mask[start + 1 : start + 1 + num_points] = True
    return MergedPrompt(input_ids, point_mask, start + 1, num_points)


def _position(ids: Array, token_id: int, name: str) -> int:
    found = np.flatnonzero(ids == token_id)
    if len(found) != 1:
        raise BundleError(
            f"The prompt holds {len(found)} {name} tokens (id {token_id}), but exactly 1 was expected. "
            "The bundle's tokenizer and its manifest do not belong together; export it again."
        )
    return int(found[0])


def batch_prompts(prompts: Sequence[MergedPrompt]) -> PromptBatch:
    """Stack prompts of different lengths. Raises SceneError if there is none."""
    if not prompts:
        raise SceneError("There is no prompt to run. Name at least one scene.")
    lengths = np.array([prompt.length for prompt in prompts], dtype=np.int32)
    longest = int(lengths.max())
    return PromptBatch(
        input_ids=np.stack([_fill_up(prompt.input_ids, longest, prompt.input_ids[-1]) for prompt in prompts]),
        point_mask=np.stack([_fill_up(prompt.point_mask, longest, False) for prompt in prompts]),
        lengths=lengths,
        positions=np.arange(longest, dtype=np.int32),
        point_starts=np.array([prompt.point_start for prompt in prompts], dtype=np.int32),
        point_counts=np.array([prompt.num_points for prompt in prompts], dtype=np.int32),
    )


def _fill_up(row: Array, longest: int, value: int | bool) -> Array:
    return np.pad(row, (0, longest - len(row)), constant_values=value)
