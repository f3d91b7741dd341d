"""The language model over a batch of whole sequences, prompt and answer, and greedy answers with a cache.

The clean modules hold weights and arithmetic; here attention is fused, and sequences are filled up on the right.
Letters as in `export.modules.language_model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, scaled_dot_product_attention

from export.modules import LanguageModel
from runtime.manifest import PositionSpec, RopeSpec
from runtime.rope import EPSILON


@dataclass(frozen=True, slots=True)
class Tables:
    """cos and sin [B, S, D] float32: of the point tokens' own encoding where a point token stands."""

    cos: Tensor
    sin: Tensor


def rotary_tables(positions: Tensor, coords: Tensor, at_point: Tensor, spec: PositionSpec) -> Tables:
    """Tables of positions [S], coords [B, S, 3] (normalized, zero outside) and at_point [B, S] bool."""
    values = torch.cat([positions.float()[None, :, None].expand(len(coords), -1, 1), coords.float()], dim=-1)
    cos, sin = _table(values, spec.text)
    if spec.points is not None:
        cos_3d, sin_3d = _table(values, spec.points)
        cos, sin = torch.where(at_point[..., None], cos_3d, cos), torch.where(at_point[..., None], sin_3d, sin)
    return Tables(cos, sin)


def _table(values: Tensor, spec: RopeSpec) -> tuple[Tensor, Tensor]:
    axis = torch.tensor(spec.axis, device=values.device)
    angles = values[..., axis] * torch.tensor(spec.inv_freq, dtype=torch.float32, device=values.device)
    return angles.cos() * spec.scaling, angles.sin() * spec.scaling


def normalized(coords: Tensor, scene: Tensor, scenes: int) -> Tensor:
    """Coords [P, 3] of all scenes, each scene moved to its origin and divided by its largest axis range."""
    index = scene[:, None].expand(-1, 3)
    low = torch.full((scenes, 3), torch.inf, device=coords.device).scatter_reduce(0, index, coords, "amin")
    high = torch.full((scenes, 3), -torch.inf, device=coords.device).scatter_reduce(0, index, coords, "amax")
    scale = (high - low).amax(dim=1, keepdim=True) + float(EPSILON)
    return (coords - low[scene]) / scale[scene]


def embed(model: LanguageModel, input_ids: Tensor, place: Tensor, points: Tensor) -> Tensor:
    """[B, S, C]: ids [B, S] embedded, and points [P, C] where `place` [P] says in the flattened B * S.

    A place of B * S is nowhere: such a point is left out.
    """
    hidden = embedding(input_ids, model.embed_tokens).flatten(0, 1)
    room = torch.cat([hidden, hidden.new_zeros(1, hidden.shape[1])])
    return room.index_copy(0, place, points.to(hidden.dtype))[:-1].view(*input_ids.shape, -1)


def hidden_states(model: LanguageModel, hidden: Tensor, tables: Tables) -> Tensor:
    """Causal attention over whole sequences [B, S, C]; what is filled up on the right is seen by nothing before it."""
    for layer in model:
        query, key, value = layer.project(hidden, tables.cos, tables.sin)
        query, key, value = (x.transpose(1, 2).to(value.dtype) for x in (query, key, value))  # [B, heads, S, D]
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        hidden = layer.finish(hidden, mixed.transpose(1, 2).flatten(2))
    return hidden


@torch.no_grad()
def generate(
    model: LanguageModel,
    hidden: Tensor,
    lengths: Tensor,
    tables: Tables,
    text: RopeSpec,
    stop_ids: Sequence[int],
    limit: int,
) -> list[list[int]]:
    """Greedy answers to prompts [B, S, C] of `lengths` [B]; the first stop token ends an answer and belongs to it.

    `tables` are those of the prompts, `text` gives those of the answers, whose positions follow their prompt's length.
    """
    batch, prompt = hidden.shape[:2]
    cache = _Cache(model, batch, prompt + limit, hidden)
    state = cache.fill(hidden, tables, lengths)
    positions = torch.arange(prompt + limit, device=hidden.device)
    rope = Tables(*_table(positions.float()[:, None].expand(-1, 4), text))
    stops = torch.tensor(list(stop_ids), device=hidden.device)
    answers, ended = [], torch.zeros(batch, dtype=torch.bool, device=hidden.device)
    for step in range(limit):
        token = model.logits(state).argmax(-1)
        answers.append(torch.where(ended, -1, token))
        ended |= torch.isin(token, stops)
        if step % 16 == 15 and bool(ended.all()):
            break
        state = cache.step(token, lengths + step, rope)
    columns = torch.stack(answers, dim=1).tolist()
    return [[token for token in row if token >= 0] for row in columns]


class _Cache:
    """Keys and values [B, K, M, D] of every layer; rows at and beyond a sequence's length are not seen."""

    def __init__(self, model: LanguageModel, batch: int, capacity: int, like: Tensor) -> None:
        self.model, self.capacity = model, capacity
        self.rows: list[tuple[Tensor, Tensor]] = []
        self.columns = torch.arange(capacity, device=like.device)

    def fill(self, hidden: Tensor, tables: Tables, lengths: Tensor) -> Tensor:
        """Prefill; the hidden state [B, C] of each last valid position."""
        for layer in self.model:
            query, key, value = layer.project(hidden, tables.cos, tables.sin)
            query, key, value = (x.transpose(1, 2).to(value.dtype) for x in (query, key, value))
            room = (0, 0, 0, self.capacity - key.shape[2])
            self.rows.append((torch.nn.functional.pad(key, room), torch.nn.functional.pad(value, room)))
            mixed = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            hidden = layer.finish(hidden, mixed.transpose(1, 2).flatten(2))
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]

    def step(self, token: Tensor, length: Tensor, rope: Tables) -> Tensor:
        """One token [B] at position `length` [B] of each sequence; its hidden state [B, C]."""
        hidden = embedding(token, self.model.embed_tokens)[:, None]
        cos, sin = rope.cos[length][:, None], rope.sin[length][:, None]
        seen = (self.columns <= length[:, None])[:, None, None, :]
        batch = torch.arange(len(token), device=token.device)
        for layer, (keys, values) in zip(self.model, self.rows, strict=True):
            query, key, value = layer.project(hidden, cos, sin)
            keys[batch, :, length] = key[:, 0].to(keys.dtype)
            values[batch, :, length] = value[:, 0].to(values.dtype)
            mixed = scaled_dot_product_attention(
                query.transpose(1, 2).to(keys.dtype), keys, values, attn_mask=seen, enable_gqa=True
            )
            hidden = layer.finish(hidden, mixed.transpose(1, 2).flatten(2))
        return hidden[:, 0]
