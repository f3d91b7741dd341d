"""Qwen2 and Llama as the two graphs prefill and decode, with rotary tables, masks and cache rows as explicit tensors.

Letters: B batch, S prompt positions, T new positions, M cache rows given, H query heads, K key/value heads,
G = H / K query heads per key head, D head size, C hidden size, V vocabulary. Cache tensors are token-major
(layout "MBKD"): [rows, B, K, D].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, silu

from export.checkpoint.config import ModelConfig
from export.modules.layers import Linear, RMSNorm, Tensors, constant
from runtime.manifest import LanguageModelSpec

LOWEST = torch.finfo(torch.float32).min  # a masked score; finite, so that a row masked everywhere gives no NaN


class LanguageModel(nn.Module):
    """The weights, shared by `Prefill` and `Decode`."""

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        super().__init__()
        spec = config.language_model
        self.embed_tokens = constant(tensors("model.embed_tokens.weight"))  # [V, C]
        self.layers = nn.ModuleList(Layer(spec, i, tensors) for i in range(spec.layers))
        self.norm = RMSNorm(tensors, "model.norm", spec.rms_norm_eps)
        head = None if spec.tie_word_embeddings else tensors("lm_head.weight")
        self.lm_head = self.embed_tokens if head is None else constant(head)  # [V, C]

    def __iter__(self) -> Iterator[Layer]:
        return iter(cast("Iterable[Layer]", self.layers))

    def embed(self, input_ids: Tensor) -> Tensor:
        return embedding(input_ids.long(), self.embed_tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., C] -> [..., V], float32."""
        return nn.functional.linear(self.norm(hidden), self.lm_head).float()


class Layer(nn.Module):
    """One transformer layer, cut at attention: what lies before it and what follows."""

    def __init__(self, spec: LanguageModelSpec, index: int, tensors: Tensors) -> None:
        super().__init__()
        name, bias = f"model.layers.{index}", spec.qkv_bias
        self.head_dim = spec.head_dim
        self.input_layernorm = RMSNorm(tensors, f"{name}.input_layernorm", spec.rms_norm_eps)
        self.q_proj = Linear(tensors, f"{name}.self_attn.q_proj", bias=bias)
        self.k_proj = Linear(tensors, f"{name}.self_attn.k_proj", bias=bias)
        self.v_proj = Linear(tensors, f"{name}.self_attn.v_proj", bias=bias)
        self.o_proj = Linear(tensors, f"{name}.self_attn.o_proj", bias=spec.output_bias)
        self.post_attention_layernorm = RMSNorm(tensors, f"{name}.post_attention_layernorm", spec.rms_norm_eps)
        self.gate_proj = Linear(tensors, f"{name}.mlp.gate_proj", bias=spec.mlp_bias)
        self.up_proj = Linear(tensors, f"{name}.mlp.up_proj", bias=spec.mlp_bias)
        self.down_proj = Linear(tensors, f"{name}.mlp.down_proj", bias=spec.mlp_bias)

    def project(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query [B, T, H, D], key and value [B, T, K, D] of hidden [B, T, C]; query and key rotated."""
        normal = self.input_layernorm(hidden)
        query, key, value = (
            linear(normal).unflatten(-1, (-1, self.head_dim)) for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def finish(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """Residual and MLP; `mixed` is what attention gives, [B, T, H*D]."""
        hidden = hidden + self.o_proj(mixed)
        normal = self.post_attention_layernorm(hidden)
        mlp: Tensor = self.down_proj(silu(self.gate_proj(normal)) * self.up_proj(normal))
        return hidden + mlp


class Prefill(nn.Module):
    """The prefill graph: a whole merged prompt; `prefill_attention` is "causal" or "full"."""

    def __init__(self, model: LanguageModel, prefill_attention: str = "causal") -> None:
        super().__init__()
        if prefill_attention not in ("causal", "full"):
            raise ValueError(f"prefill_attention is {prefill_attention!r}, but 'causal' or 'full' was expected")
        self.model = model
        self.causal = prefill_attention == "causal"

    def forward(
        self,
        input_ids: Tensor,
        point_embeds: Tensor,
        point_mask: Tensor,
        cos_3d: Tensor,
        sin_3d: Tensor,
        cos_1d: Tensor,
        sin_1d: Tensor,
        lengths: Tensor,
    ) -> dict[str, Tensor]:
        """`logits` [B, V] of the last valid position, and rows `key.<layer>`, `value.<layer>` [S, B, K, D].

        `input_ids` [B, S] int (any valid id where a point token stands), `point_embeds` [B, S, C], `point_mask`
        [B, S] bool, four tables [B, S, D] float32, `lengths` [B] int, at least 1. Rows at and beyond a sample's
        length are padding: no valid position sees them.
        """
        at_point = point_mask[..., None]
        cos, sin = torch.where(at_point, cos_3d, cos_1d), torch.where(at_point, sin_3d, sin_1d)
        hidden = torch.where(at_point, point_embeds, self.model.embed(input_ids))
        visible = self.visible(lengths, input_ids.shape[1])
        rows: dict[str, Tensor] = {}
        for i, layer in enumerate(self.model):
            query, key, value = layer.project(hidden, cos, sin)
            rows[f"key.{i}"], rows[f"value.{i}"] = key.transpose(0, 1), value.transpose(0, 1)
            weights = _softmax(_scores(query, rows[f"key.{i}"]), visible)
            hidden = layer.finish(hidden, _merge(_mix(weights, rows[f"value.{i}"])))
        last = hidden[torch.arange(len(hidden), device=hidden.device), lengths.long() - 1]  # [B, C]
        return {"logits": self.model.logits(last), **rows}

    def visible(self, lengths: Tensor, positions: int) -> Tensor:
        """Which key (last axis) each query may see: [B, 1, 1, S or 1, S] bool."""
        valid = (torch.arange(positions, device=lengths.device) < lengths[:, None])[:, None, None, None, :]
        return valid & _causal(positions, lengths.device) if self.causal else valid


class Decode(nn.Module):
    """The decode graph: T new positions of each sequence against the cache."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, cos: Tensor, sin: Tensor, past_length: Tensor, **past: Tensor
    ) -> dict[str, Tensor]:
        """`logits` [B, T, V], and the T new rows `key.<layer>`, `value.<layer>` [T, B, K, D].

        `input_ids` [B, T] int, `cos` and `sin` [B, T, D] float32, `past_length` [B] int,
        `past_key.<layer>` and `past_value.<layer>` [M, B, K, D] with M at least every past length; what stands in
        rows at and beyond `past_length` never changes a result.
        """
        hidden = self.model.embed(input_ids)
        new = input_ids.shape[1]
        rows: dict[str, Tensor] = {}
        for i, layer in enumerate(self.model):
            past_key, past_value = past[f"past_key.{i}"], past[f"past_value.{i}"]
            query, key, value = layer.project(hidden, cos, sin)
            rows[f"key.{i}"], rows[f"value.{i}"] = key.transpose(0, 1), value.transpose(0, 1)
            scores = torch.cat([_scores(query, past_key), _scores(query, rows[f"key.{i}"])], dim=-1)
            weights = _softmax(scores, _visible_past(past_length, past_key.shape[0], new))
            old, own = weights[..., :-new], weights[..., -new:]
            hidden = layer.finish(hidden, _merge(_mix(old, past_value) + _mix(own, rows[f"value.{i}"])))
        return {"logits": self.model.logits(hidden), **rows}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin over the whole head: [B, T, heads, D] with tables [B, T, D].

    The tables are full width: entries d and d + D/2 may hold different angles, so this is not always a rotation.
    """
    low, high = x.chunk(2, dim=-1)
    return x * cos[:, :, None] + torch.cat([-high, low], dim=-1) * sin[:, :, None]


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Query [B, T, H, D] against cache rows [R, B, K, D] -> [B, K, G, T, R]; keys are not repeated."""
    batch, new, _, size = query.shape
    grouped = query.view(batch, new, key.shape[2], -1, size).permute(0, 2, 3, 1, 4)  # [B, K, G, T, D]
    products = grouped @ key.permute(1, 2, 3, 0)[:, :, None]  # keys as [B, K, 1, D, R]
    return products / math.sqrt(size)


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Weights over the last axis. `where` and not an addition: whatever a hidden row holds, its score is the same."""
    return torch.where(visible, scores, LOWEST).softmax(dim=-1)


def _mix(weights: Tensor, value: Tensor) -> Tensor:
    """Weights [B, K, G, T, R] times cache rows [R, B, K, D] -> [B, K, G, T, D]."""
    return weights @ value.permute(1, 2, 0, 3)[:, :, None]


def _merge(mixed: Tensor) -> Tensor:
    """[B, K, G, T, D] -> [B, T, H*D], query heads in their order."""
    return mixed.permute(0, 3, 1, 2, 4).flatten(2)


def _causal(positions: int, device: torch.device) -> Tensor:
    return torch.ones(positions, positions, dtype=torch.bool, device=device).tril()


def _visible_past(past_length: Tensor, past: int, new: int) -> Tensor:
    """[B, 1, 1, T, M+T] bool: past rows before the length, new rows up to the query's own."""
    written = torch.arange(past, device=past_length.device) < past_length[:, None]  # [B, M]
    written = written[:, None, :].expand(-1, new, -1)  # [B, T, M]
    own = _causal(new, past_length.device).expand(len(past_length), -1, -1)  # [B, T, T]
    return torch.cat([written, own], dim=-1)[:, None, None]
