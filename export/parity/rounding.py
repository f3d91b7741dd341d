"""Prefill in half precision with chosen islands in float32, on any machine: computed in float32 and rounded where an
engine would round.

A matrix product whose sums are float32 and whose result is rounded is what GPUs compute in half precision. What is
no island rounds after every step of it; an island rounds its result only, as it leaves for a part that is none.
Weights and cache rows are rounded always: a bundle has them so. This stands apart from the graphs and their passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from export.checkpoint.config import ModelConfig
from export.graph.attention import Q_SCALE
from export.modules.language_model import LanguageModel, Layer, Prefill
from export.modules.layers import RMSNorm, Tensors

# From the cheapest to keep in float32 to the dearest.
PARTS = ("norms", "rotation", "softmax", "scores", "mix", "residual", "projections", "head", "mlp")
GRAPH = frozenset({"norms", "rotation", "softmax"})  # islands of every graph that `export.graph` writes
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Islands:
    """Parts in float32, in the layers `first` to `last - 1`; the final norm and the head count as one more layer."""

    parts: frozenset[str]
    first: int
    last: int

    def at(self, layer: int) -> frozenset[str]:
        return self.parts if self.first <= layer < self.last else frozenset()


class RoundedPrefill(Prefill):
    """The prefill module with roundings. `islands` may be changed between calls."""

    def __init__(self, config: ModelConfig, tensors: Tensors, precision: str, prefill_attention: str) -> None:
        self.dtype = DTYPES[precision]
        super().__init__(LanguageModel(config, lambda name: self._rounded(tensors(name))), prefill_attention)
        self.islands = Islands(frozenset(), 0, 0)

    @torch.inference_mode()
    def forward(  # type: ignore[override]
        self, input_ids: Tensor, point_embeds: Tensor, point_mask: Tensor, lengths: Tensor, **tables: Tensor
    ) -> dict[str, Tensor]:
        """As the parent's: float32 tensors that hold what half precision can."""
        at_point = point_mask[..., None]
        table = tuple(torch.where(at_point, tables[f"{name}_3d"], tables[f"{name}_1d"]) for name in ("cos", "sin"))
        hidden = torch.where(at_point, self._rounded(point_embeds), self.model.embed(input_ids))
        visible = self.visible(lengths, input_ids.shape[1])
        rows: dict[str, Tensor] = {}
        for i, layer in enumerate(self.model):
            step = _Step(self._rounded, self.islands.at(i))
            query, key, value = step.project(layer, hidden, *table)
            rows[f"key.{i}"], rows[f"value.{i}"] = (self._rounded(x).transpose(0, 1) for x in (key, value))
            mixed = step.attend(query, rows[f"key.{i}"], rows[f"value.{i}"], visible, torch.finfo(self.dtype).min)
            hidden = step.finish(layer, hidden, mixed)
        step = _Step(self._rounded, self.islands.at(len(self.model.layers)))
        last = hidden[torch.arange(len(hidden)), lengths.long() - 1]
        logits = step.out("head", torch.nn.functional.linear(step.norm(self.model.norm, last), self.model.lm_head))
        return {"logits": logits, **rows}

    def _rounded(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).float()


@dataclass(frozen=True, slots=True)
class _Step:
    """One layer's arithmetic."""

    rounded: Callable[[Tensor], Tensor]
    islands: frozenset[str]

    def out(self, part: str, x: Tensor) -> Tensor:
        """A value inside a part, or its result where nothing rounds it before it is used."""
        return x if part in self.islands else self.rounded(x)

    def norm(self, module: RMSNorm, x: Tensor) -> Tensor:
        square = self.out("norms", self.out("norms", x * x).mean(-1, keepdim=True) + module.eps)
        normal = self.out("norms", x * self.out("norms", torch.rsqrt(square)))
        return self.rounded(module.weight * normal)

    def project(self, layer: Layer, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normal = self.norm(layer.input_layernorm, hidden)
        query, key, value = (
            self.out("projections", linear(normal)).unflatten(-1, [-1, layer.head_dim])  # type: ignore[no-untyped-call]
            for linear in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        return self._turned(query, cos, sin), self._turned(key, cos, sin), value

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = (self.out("rotation", table)[:, :, None] for table in (cos, sin))
        low, high = x.chunk(2, dim=-1)
        turned = self.out("rotation", x * cos) + self.out("rotation", torch.cat([-high, low], dim=-1) * sin)
        return self.out("scores", turned)  # whoever multiplies in half reads halves

    def attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, lowest: float) -> Tensor:
        """[B, S, H*D] of queries [B, S, H, D] and cache rows [S, B, K, D]."""
        batch, count, _, size = query.shape
        grouped = query.view(batch, count, key.shape[2], -1, size).permute(0, 2, 3, 1, 4)  # [B, K, G, S, D]
        products = self.out("scores", (grouped * Q_SCALE) @ key.permute(1, 2, 3, 0)[:, :, None])
        scores = self.out("softmax", products / (Q_SCALE * math.sqrt(size)))
        shown = torch.where(visible, scores, lowest)
        shares = self.out("softmax", self.out("softmax", shown - shown.amax(-1, keepdim=True)).exp())
        weights = self.out("softmax", shares / self.out("softmax", shares.sum(-1, keepdim=True)))
        mixed = self.out("mix", self.out("mix", weights) @ value.permute(1, 2, 0, 3)[:, :, None])
        return mixed.permute(0, 3, 1, 2, 4).flatten(2)

    def finish(self, layer: Layer, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = self.out("residual", hidden + self.out("projections", layer.o_proj(mixed)))
        normal = self.norm(layer.post_attention_layernorm, hidden)
        gate, up = (self.out("mlp", linear(normal)) for linear in (layer.gate_proj, layer.up_proj))
        product = self.out("mlp", self.out("mlp", silu(gate)) * up)
        return self.out("residual", hidden + self.out("mlp", layer.down_proj(product)))
