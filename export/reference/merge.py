"""Point tokens in the place of the prompt's pad token, and batches of prompts of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.checkpoint.config import ModelConfig
from runtime.errors import SceneError


@dataclass(frozen=True, slots=True)
class Merged:
    """One prompt after merging; point tokens stand at start .. end - 1 (an empty range without a cloud)."""

    embeds: Tensor  # [L, C]
    start: int
    end: int


def merge_points(config: ModelConfig, input_ids: Tensor, embeds: Tensor, point_tokens: Tensor | None) -> Merged:
    """Keep the embeddings of the start and the end token, replace everything between them by the point tokens.

    `input_ids` [text], `embeds` [text, C], `point_tokens` [P, C] or None for a prompt without a cloud.
    """
    if point_tokens is None:
        return Merged(embeds, 0, 0)
    opening = _only(input_ids, config.point_start_token_id, "point start")
    closing = _only(input_ids, config.point_end_token_id, "point end")
    merged = torch.cat([embeds[: opening + 1], point_tokens, embeds[closing:]])
    return Merged(merged, opening + 1, opening + 1 + len(point_tokens))


def pad_batch(prompts: Sequence[Merged]) -> tuple[Tensor, Tensor]:
    """Embeddings [B, S, C], padded on the right by repeating each prompt's last row, and lengths [B] int64."""
    lengths = torch.tensor([len(prompt.embeds) for prompt in prompts])
    longest = int(lengths.max())
    rows = [
        torch.cat([prompt.embeds, prompt.embeds[-1:].expand(longest - len(prompt.embeds), -1)]) for prompt in prompts
    ]
    return torch.stack(rows), lengths


def _only(input_ids: Tensor, token_id: int, what: str) -> int:
    places = (input_ids == token_id).nonzero().flatten().tolist()
    if len(places) != 1:
        raise SceneError(
            f"prompt: {len(places)} {what} tokens (id {token_id}), but exactly one was expected. "
            f"Write the point tokens once into the prompt."
        )
    return int(places[0])
