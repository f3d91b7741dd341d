"""Qwen2 or Llama as fast as PyTorch gets at batch 1: fused weights, a cache of fixed size, positions as tensors.

Nothing depends on a value on the host, so a step can be compiled as a whole and captured in a CUDA graph. Letters as in
the manifest; the cache holds keys and values [K, M, D] of each layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from runtime.manifest import LanguageModelSpec

ATTENTIONS = ("groups", "heads", "sdpa")


class StaticLayer(nn.Module):
    """One layer's weights and its part of the cache."""

    def __init__(self, spec: LanguageModelSpec, index: int, tensors: Callable[[str], Tensor], rows: int) -> None:
        super().__init__()
        name, projections = f"model.layers.{index}", ("q_proj", "k_proj", "v_proj")
        if spec.output_bias or spec.mlp_bias:
            raise ValueError("biases behind attention or in the MLP are not written here; no published model has them")
        weights = {
            "norm1": tensors(f"{name}.input_layernorm.weight"),
            "norm2": tensors(f"{name}.post_attention_layernorm.weight"),
            "qkv": torch.cat([tensors(f"{name}.self_attn.{part}.weight") for part in projections]),
            "output": tensors(f"{name}.self_attn.o_proj.weight"),
            "gate_up": torch.cat([tensors(f"{name}.mlp.{part}.weight") for part in ("gate_proj", "up_proj")]),
            "down": tensors(f"{name}.mlp.down_proj.weight"),
        }
        bias = torch.cat([tensors(f"{name}.self_attn.{part}.bias") for part in projections]) if spec.qkv_bias else None
        cache = torch.zeros(2, spec.kv_heads, rows, spec.head_dim, dtype=weights["qkv"].dtype)
        cache = cache.to(weights["qkv"].device)
        for key, value in {**weights, "qkv_bias": bias, "key": cache[0].clone(), "value": cache[1].clone()}.items():
            self.register_buffer(key, value)


class StaticModel(nn.Module):
    """`prefill` fills the cache, `step` appends one token. `attention` is how a step reads the cache."""

    def __init__(
        self,
        spec: LanguageModelSpec,
        tensors: Callable[[str], Tensor],
        table: tuple[Tensor, Tensor],
        attention: str = "groups",
    ) -> None:
        """`table` holds cos and sin [M, D] of every position, in the type of the weights."""
        super().__init__()
        self.rows, self.attention, self.eps = len(table[0]), attention, spec.rms_norm_eps
        self.heads, self.kv_heads, self.head_dim = spec.heads, spec.kv_heads, spec.head_dim
        self.layers = nn.ModuleList(StaticLayer(spec, i, tensors, self.rows) for i in range(spec.layers))
        embed = tensors("model.embed_tokens.weight")
        head = embed if spec.tie_word_embeddings else tensors("lm_head.weight")
        named = {"embed": embed, "head": head, "norm": tensors("model.norm.weight"), "cos": table[0], "sin": table[1]}
        for key, value in named.items():
            self.register_buffer(key, value)
        self.register_buffer("places", torch.arange(self.rows, device=embed.device))

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        """Logits [1, V], float32, after a token [1] at a position [1], whose row the cache then has."""
        x = embedding(token, self.embed)  # [1, C]
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]  # [1, 1, D]
        visible = self.places <= position  # [M]
        for layer in self.layers:
            query, key, value = self._project(layer, x, cos, sin)  # [1, heads, D]
            layer.key.index_copy_(1, position, key.transpose(0, 1))
            layer.value.index_copy_(1, position, value.transpose(0, 1))
            x = self._finish(layer, x, self._attend(query, layer.key, layer.value, visible))
        return self._logits(x)

    def prefill(self, ids: Tensor, embeds: Tensor, at_point: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Logits [1, V] after the last of S positions: ids [S], embeds [S, C], at_point [S] bool, tables [S, D]."""
        x = torch.where(at_point[:, None], embeds, embedding(ids, self.embed))
        for layer in self.layers:
            query, key, value = self._project(layer, x, cos[:, None], sin[:, None])  # [S, heads, D]
            layer.key[:, : len(ids)].copy_(key.transpose(0, 1))
            layer.value[:, : len(ids)].copy_(value.transpose(0, 1))
            heads = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
            mixed = scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)[0]
            x = self._finish(layer, x, mixed.transpose(0, 1).flatten(1))
        return self._logits(x[-1:])

    def _project(self, layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joined = linear(self._normal(x, layer.norm1), layer.qkv)
        if layer.qkv_bias is not None:  # apart, because a product with bias is not compiled into a reduction
            joined = joined + layer.qkv_bias
        heads = joined.view(len(x), -1, self.head_dim)  # [S, H + 2K, D]
        turned = heads[:, : self.heads + self.kv_heads]
        low, high = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-high, low], dim=-1) * sin
        return turned[:, : self.heads], turned[:, self.heads :], heads[:, self.heads + self.kv_heads :]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """Query [1, H, D] against the whole cache [K, M, D] -> [1, H*D].

        The queries of one key head stand as rows of one product ("groups", "sdpa"), or each head has a product of its
        own ("heads"), whose single row the compiler can make into a reduction.
        """
        grouped = query.view(self.kv_heads, -1, self.head_dim)  # [K, G, D]
        if self.attention == "sdpa":
            mask = visible.expand(grouped.shape[1], -1)
            mixed = scaled_dot_product_attention(grouped[None], key[None], value[None], attn_mask=mask[None, None])
            return mixed.reshape(1, -1)
        if self.attention == "heads":
            grouped = query.transpose(0, 1)  # [H, 1, D]
            key, value = (half.repeat_interleave(self.heads // self.kv_heads, dim=0) for half in (key, value))
        scores = (grouped @ key.transpose(1, 2)).float() * self.head_dim**-0.5  # [K, G, M] or [H, 1, M]
        chances = scores.masked_fill(~visible, float("-inf")).softmax(-1).to(value.dtype)
        return (chances @ value).reshape(1, -1)

    def _finish(self, layer: nn.Module, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + linear(mixed, layer.output)
        gate, up = linear(self._normal(x, layer.norm2), layer.gate_up).chunk(2, dim=-1)
        return x + linear(silu(gate) * up, layer.down)

    def _normal(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS normalization in float32, back to the type of x before the weight, as transformers does."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return weight * (wide * scale).to(x.dtype)

    def _logits(self, x: Tensor) -> Tensor:
        return linear(self._normal(x, self.norm), self.head).float()


class TokenLoop:
    """Greedy steps that stay on the device: step, argmax, the next inputs; captured once, then replayed."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], device: torch.device, room: int) -> None:
        self._step = step
        self.token, self.position, self.taken = (
            torch.zeros(1, dtype=torch.long, device=device) for _ in range(3)
        )  # what the next step reads
        self.tokens = torch.zeros(room, dtype=torch.long, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def reset(self, token: int, position: int) -> None:
        """The next step feeds `token` at `position`."""
        self.token.fill_(token)
        self.position.fill_(position)
        self.taken.zero_()

    def once(self) -> None:
        """One step, not captured."""
        logits = self._step(self.token, self.position)
        self.token.copy_(logits.argmax(-1))
        self.tokens.index_copy_(0, self.taken, self.token)
        self.position.add_(1)
        self.taken.add_(1)

    def capture(self) -> None:
        """Make the graph from a few more steps, which do not count: `reset` follows. Without a GPU there is none."""
        if not torch.cuda.is_available():
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.once()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.once()

    def replay(self) -> None:
        """One step, captured where that was possible."""
        if self._graph is None:
            self.once()
        else:
            self._graph.replay()
