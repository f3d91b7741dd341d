"""Attention with 3D RoPE, literally: rotate point tokens in 3D, save them, rotate everything in 1D, restore them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

from export.reference.cache_name import CACHE
from export.reference.verbose import is_verbose, report


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRope:
    """The 3D table of one sample's point tokens, at merged positions start .. end - 1."""

    sample: int  # row of the batch
    start: int
    end: int
    cos_3d: Tensor  # [P, D]
    sin_3d: Tensor  # [P, D]

    @property
    def at(self) -> tuple[slice, slice, slice]:
        """Index of the point tokens in [B, heads, S, D]; keeps the batch axis."""
        return slice(self.sample, self.sample + 1), slice(None), slice(self.start, self.end)


class SpatialAttention:
    """The forward pass that both families share; mixed into their own attention classes.

    `points` is attached for one call of the model and removed after it. `watch` sees the numbered checkpoints in place
    of the printer: a line, and tensors by name, which it must copy, because some are written into later.
    """

    family: ClassVar[str]
    modeling: ClassVar[Any]  # the family's module of transformers
    points: tuple[PointRope, ...] = ()
    watch: Callable[..., None] | None = None
    head_dim: int
    layer_idx: int
    num_key_value_groups: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor]:
        """As the parent's; `attention_mask` is additive, [B, 1, T, rows], `position_embeddings` two of [B, T, D]."""
        cache = more.get(CACHE)
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)  # [B, H, T, D]
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)  # [B, K, T, D]
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        is_prefill = cache is None or cache.get_seq_length(self.layer_idx) == 0
        if self.points and is_prefill:
            query, key = self._rotate_with_points(query, key, *position_embeddings)
        else:
            query, key = self.modeling.apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        return self._attend(query, key, value, attention_mask)

    def _rotate_with_points(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        log = self.watch or (report if is_verbose() else _silent)
        log(f"\n=== [{self.family} 3D_RoPE Sanity Check] ===")
        log("[CHECKPOINT 1] After Q/K/V projection and head reshape:", query_states=query, key_states=key)
        for points in self.points:
            log("[CHECKPOINT 2] 3D RoPE data:", cos_3d=points.cos_3d, sin_3d=points.sin_3d)
        log(f"  point_token_positions: {[(points.start, points.end) for points in self.points]}")
        for points in self.points:
            _rotate_points(query, key, points, log)
        log("[CHECKPOINT 5] Full Q/K after 3D RoPE:", query_states=query, key_states=key)
        log("[CHECKPOINT 6] 1D RoPE data:", cos=cos, sin=sin)
        saved = [(query[points.at].clone(), key[points.at].clone()) for points in self.points]
        for points, (saved_q, saved_k) in zip(self.points, saved, strict=True):
            log(f"[CHECKPOINT 7] Saved point tokens of batch {points.sample}:", saved_q=saved_q, saved_k=saved_k)
        query, key = self.modeling.apply_rotary_pos_emb(query, key, cos, sin)
        log("[CHECKPOINT 8] After 1D RoPE on all tokens:", query_states=query, key_states=key)
        for points, (saved_q, saved_k) in zip(self.points, saved, strict=True):
            query[points.at], key[points.at] = saved_q, saved_k
            place = f"batch {points.sample}, positions [{points.start}:{points.end}]"
            log(f"[CHECKPOINT 9] Restored 3D RoPE for {place}")
        if self.watch is not None:
            self.watch("[CHECKPOINT 9] As they enter attention:", query_states=query, key_states=key)
        return query, key

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        key = self.modeling.repeat_kv(key, self.num_key_value_groups)
        value = self.modeling.repeat_kv(value, self.num_key_value_groups)
        scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(self.head_dim)
        if mask is not None:
            scores = scores + mask
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        mixed = torch.matmul(weights, value).transpose(1, 2).flatten(2)  # [B, T, H*D]
        return self.o_proj(mixed), weights


class SpatialQwen2Attention(SpatialAttention, modeling_qwen2.Qwen2Attention):  # type: ignore[misc]
    """Qwen2's attention with 3D RoPE."""

    family = "Qwen2"
    modeling = modeling_qwen2


class SpatialLlamaAttention(SpatialAttention, modeling_llama.LlamaAttention):  # type: ignore[misc]
    """Llama's attention with 3D RoPE."""

    family = "Llama"
    modeling = modeling_llama


def rotate_3d(x: Tensor, cos_3d: Tensor, sin_3d: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin over the whole head: [1, heads, P, D] with tables [P, D].

    Entries d and d + D/2 hold different angles, so this does not keep the norm of x.
    """
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos_3d + turned * sin_3d


def _rotate_points(query: Tensor, key: Tensor, points: PointRope, log: Any) -> None:
    point_q, point_k = query[points.at], key[points.at]
    place = f"batch {points.sample}, positions [{points.start}:{points.end}]"
    log(f"[CHECKPOINT 3] Point tokens extracted, {place}:", point_q=point_q, point_k=point_k)
    rotated_q = rotate_3d(point_q, points.cos_3d, points.sin_3d)
    rotated_k = rotate_3d(point_k, points.cos_3d, points.sin_3d)
    log(f"[CHECKPOINT 4] Point tokens after 3D RoPE, {place}:", rotated_q=rotated_q, rotated_k=rotated_k)
    query[points.at], key[points.at] = rotated_q, rotated_k


def _silent(_line: str, **_tensors: Tensor) -> None:
    return None
