"""Feeds of the prefill and decode graphs, and a cache that is filled with poison where nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from export.checkpoint import ModelConfig
from export.reference import Reference
from export.reference.tables import point_table
from tests.modules.tiny import END, POINT, START

POISON = 1e30
PADDING_ID = 17


@dataclass(frozen=True)
class Prompts:
    """A batch for `Reference.prefill`: its three arguments in order."""

    input_ids: list[list[int]]
    point_tokens: list[Tensor | None]
    patch_coords: list[Tensor | None]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter((self.input_ids, self.point_tokens, self.patch_coords))

    def sample(self, i: int) -> Prompts:
        return Prompts([self.input_ids[i]], [self.point_tokens[i]], [self.patch_coords[i]])


def random_prompts(config: ModelConfig, points: Sequence[int], seed: int = 0) -> Prompts:
    """One sample per entry of `points`, its number of point tokens; texts of different lengths around them."""
    generator = torch.Generator().manual_seed(seed)

    def text(count: int) -> list[int]:
        return torch.randint(2, 80, (count,), generator=generator).tolist()

    ids = [[*text(2 + i), START, POINT, END, *text(4 + 2 * i)] for i in range(len(points))]
    tokens = [torch.randn(count, config.language_model.hidden_size, generator=generator) for count in points]
    coords = [torch.rand(count, 3, generator=generator) * torch.tensor([6.0, 4.0, 2.5]) for count in points]
    return Prompts(ids, list(tokens), list(coords))


def text_prompts(*texts: list[int]) -> Prompts:
    return Prompts(list(texts), [None] * len(texts), [None] * len(texts))


def text_table(reference: Reference, positions: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' own cosines and sines [B, T, D] at positions [B, T]."""
    cos, sin = reference.language_model.model.rotary_emb(torch.zeros(1), positions)
    return cos.expand(*positions.shape, -1), sin.expand(*positions.shape, -1)


def prefill_feeds(reference: Reference, prompts: Prompts) -> dict[str, Tensor]:
    """Feeds [B, S, ...] of the prefill graph. What the graph must not read is random: padding, unused embeddings."""
    config = reference.config
    merged = [_merged_ids(*pair) for pair in zip(prompts.input_ids, prompts.point_tokens, strict=True)]
    longest, batch = max(map(len, merged)), len(merged)
    spec = config.language_model
    feeds = {
        "input_ids": torch.tensor([[*ids, *[PADDING_ID] * (longest - len(ids))] for ids in merged], dtype=torch.int32),
        "point_embeds": torch.randn(batch, longest, spec.hidden_size),
        "point_mask": torch.zeros(batch, longest, dtype=torch.bool),
        "cos_3d": torch.randn(batch, longest, spec.head_dim),
        "sin_3d": torch.randn(batch, longest, spec.head_dim),
        "lengths": torch.tensor([len(ids) for ids in merged], dtype=torch.int32),
    }
    feeds["cos_1d"], feeds["sin_1d"] = text_table(reference, torch.arange(longest).expand(batch, -1))
    for i, (tokens, coords) in enumerate(zip(prompts.point_tokens, prompts.patch_coords, strict=True)):
        if tokens is not None and coords is not None:
            _place(feeds, i, config, prompts.input_ids[i].index(START) + 1, tokens, coords)
    return feeds


def _merged_ids(input_ids: list[int], point_tokens: Tensor | None) -> list[int]:
    if point_tokens is None:
        return input_ids
    start, end = input_ids.index(START), input_ids.index(END)
    return [*input_ids[: start + 1], *[POINT] * len(point_tokens), *input_ids[end:]]


def _place(
    feeds: dict[str, Tensor], sample: int, config: ModelConfig, start: int, tokens: Tensor, coords: Tensor
) -> None:
    at = slice(start, start + len(tokens))
    feeds["point_embeds"][sample, at] = tokens
    feeds["point_mask"][sample, at] = True
    if config.vlm_pe is None:  # the tables of the text hold for the point tokens too
        feeds["cos_3d"][sample, at], feeds["sin_3d"][sample, at] = (
            feeds["cos_1d"][sample, at],
            feeds["sin_1d"][sample, at],
        )
        return
    table = point_table(config, coords, start)
    assert table is not None
    feeds["cos_3d"][sample, at], feeds["sin_3d"][sample, at] = table


@dataclass
class PoisonedCache:
    """A cache [M, B, K, D] a tensor; samples advance by their own lengths, rows not written hold the poison."""

    config: ModelConfig
    batch: int
    capacity: int
    poison: float = POISON
    tensors: dict[str, Tensor] = field(init=False)
    lengths: Tensor = field(init=False)

    def __post_init__(self) -> None:
        spec = self.config.language_model
        shape = (self.capacity, self.batch, spec.kv_heads, spec.head_dim)
        names = [f"past_{kind}.{i}" for kind in ("key", "value") for i in range(spec.layers)]
        self.tensors = {name: torch.full(shape, self.poison) for name in names}
        self.lengths = torch.zeros(self.batch, dtype=torch.int32)

    def append(self, outputs: dict[str, Tensor], counts: Tensor | None = None) -> None:
        """Write each sample's first `counts` new rows (all of them by default) after its own last one."""
        for name, past in self.tensors.items():
            rows = outputs[name.removeprefix("past_")]
            for b in range(self.batch):
                count, at = len(rows) if counts is None else int(counts[b]), int(self.lengths[b])
                past[at : at + count, b] = rows[:count, b]
        self.lengths = self.lengths + (len(rows) if counts is None else counts)

    def feeds(self, rows: int | None = None) -> dict[str, Tensor]:
        """Feeds of decode with a prefix of the cache, by default a few rows more than are written."""
        rows = min(self.capacity, int(self.lengths.max()) + 3) if rows is None else rows
        return {"past_length": self.lengths, **{name: past[:rows] for name, past in self.tensors.items()}}


def decode_feeds(reference: Reference, cache: PoisonedCache, input_ids: Tensor) -> dict[str, Tensor]:
    """Feeds of one decode call for ids [B, T]."""
    positions = cache.lengths[:, None] + torch.arange(input_ids.shape[1])
    cos, sin = text_table(reference, positions)
    return {"input_ids": input_ids.int(), "cos": cos, "sin": sin, **cache.feeds()}
