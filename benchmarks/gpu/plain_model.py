"""The language model in plain PyTorch, a whole sequence at a time: in float32 to compare with, in half to race with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from benchmarks.gpu.decode_step_parts import Model


def forward(model: Model, x: Tensor, cos: Tensor, sin: Tensor, work: torch.dtype) -> tuple[Tensor, Tensor]:
    """Causal, over embedded rows `x` [B, S, C] with angles [B, S, D], all in `work`.

    Logits [B, V] after the last row, float32, and the new cache rows [S, B, 2L*K, D]. Float32 is exact, and asks for
    [H, S, S] of memory; half precision is as users of PyTorch run it, with float32 in the norms.
    """
    s = model.sizes
    keys, values = [], []
    cos, sin = cos[:, :, None], sin[:, :, None]
    for w in model.layers:
        bias = None if w["qkv_bias"] is None else w["qkv_bias"].to(work)
        qkv = linear(_norm(x, w["input_norm"], s.epsilon), w["qkv"].to(work), bias)
        heads = qkv.view(*x.shape[:2], -1, s.head_dim)  # [B, S, H + 2K, D]
        turned, value = heads.split([s.heads + s.kv_heads, s.kv_heads], dim=2)
        low, high = turned.chunk(2, -1)
        turned = turned * cos + torch.cat([-high, low], -1) * sin
        query, key = turned.split([s.heads, s.kv_heads], dim=2)
        mixed = _attend(*(part.transpose(1, 2) for part in (query, key, value)))
        x = x + linear(mixed.transpose(1, 2).flatten(2), w["o"].to(work))
        gate, up = linear(_norm(x, w["post_norm"], s.epsilon), w["gate_up"].to(work)).chunk(2, -1)
        x = x + linear(silu(gate) * up, w["down"].to(work))
        keys.append(key)
        values.append(value)
    logits = linear(_norm(x[:, -1], model.final_norm, s.epsilon), model.embedding.to(work)).float()
    return logits, torch.cat([*keys, *values], 2).transpose(0, 1)


def _norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """In float32, back to the type of x before the gain."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype) * gain.to(x.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, H, S, D] over [B, K, S, D]. Fused in half precision; step by step in float32, where fusing costs digits."""
    if query.dtype != torch.float32:
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    group = query.shape[1] // key.shape[1]
    key, value = (half.repeat_interleave(group, dim=1) for half in (key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill_(hidden, -torch.inf).softmax(-1) @ value
