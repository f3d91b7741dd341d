"""The PyTorch reference as people run it: transformers' model, dynamic cache, and our float32 encoder module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from export.checkpoint import Checkpoint
from export.modules import Encoder
from export.reference.cache_name import CACHE
from export.reference.language_model import build_language_model
from runtime.arrays import Array

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Eager:
    """transformers' Qwen2 or Llama without a 3D encoding, which changes numbers but no speed."""

    def __init__(self, checkpoint: Checkpoint, precision: str, device: torch.device, attention: str = "sdpa") -> None:
        """`checkpoint` was opened with `vlm_pe=None`. `attention` is transformers' name; "sdpa" is its default."""
        dtype, self._device = DTYPES[precision], device
        tensors: Callable[[str], Tensor] = lambda name: checkpoint.float_tensor(name).to(device, dtype)  # noqa: E731
        self.model = build_language_model(checkpoint.config, tensors, attn_implementation=attention).to(device)
        self._cache: Any = None

    def embed(self, ids: Array, at_point: Array, points: Tensor) -> Tensor:
        """[1, S, C] of ids [S], with points [P, C] where `at_point` [S] is true."""
        embeds = self.model.model.embed_tokens(torch.from_numpy(ids.astype(np.int64)).to(self._device))
        embeds[torch.from_numpy(at_point).to(self._device)] = points.to(embeds.dtype)
        return embeds[None]

    def start(self, embeds: Tensor) -> Tensor:
        """Prefill: logits [1, V]; a new cache."""
        self._cache = DynamicCache()
        out = self.model(inputs_embeds=embeds, **{CACHE: self._cache}, use_cache=True, logits_to_keep=1)
        logits: Tensor = out.logits[:, -1]
        return logits

    def step(self, token: int) -> Tensor:
        """Logits [1, V] after one more token."""
        ids = torch.tensor([[token]], device=self._device)
        logits: Tensor = self.model(input_ids=ids, **{CACHE: self._cache}, use_cache=True).logits[:, -1]
        return logits

    def text(self, logits: Tensor, count: int) -> list[int]:
        """Greedy tokens; each comes to the host, as `generate` looks for the end after every one."""
        tokens = [int(logits.argmax())]
        while len(tokens) < count:
            tokens.append(int(self.step(tokens[-1]).argmax()))
        return tokens


class EagerEncoder:
    """Our encoder module in float32, as the reference computes it."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._device = device
        self._module = Encoder(checkpoint.config, lambda name: checkpoint.float_tensor(name).to(device))

    def place(self, feeds: Mapping[str, Array]) -> dict[str, Tensor]:
        """Inputs on the device."""
        return {name: torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for name, array in feeds.items()}

    def __call__(self, feeds: Mapping[str, Tensor]) -> Tensor:
        """Point tokens [P, C], float32."""
        points: Tensor = self._module(feeds)
        return points


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
