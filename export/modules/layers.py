"""Layers made from the tensors of a checkpoint, by name, without a copy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Tensors = Callable[[str], Tensor]  # checkpoint name -> float32 tensor

LAYER_NORM_EPS = 1e-5


def constant(tensor: Tensor) -> nn.Parameter:
    """A weight of a module for inference: no gradient, no copy."""
    return nn.Parameter(tensor, requires_grad=False)


class Linear(nn.Module):
    """y = x @ weight.T + bias, weight [out, in], bias [out] or none. `name` is the prefix in the checkpoint."""

    def __init__(self, tensors: Tensors, name: str, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = constant(tensors(f"{name}.weight"))
        self.bias = constant(tensors(f"{name}.bias")) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, eps 1e-5 everywhere in the encoder."""

    def __init__(self, tensors: Tensors, name: str) -> None:
        super().__init__()
        self.weight = constant(tensors(f"{name}.weight"))
        self.bias = constant(tensors(f"{name}.bias"))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, LAYER_NORM_EPS)


class RMSNorm(nn.Module):
    """x / rms(x) in float32, back to the type of x, then times weight (the order of transformers)."""

    def __init__(self, tensors: Tensors, name: str, eps: float) -> None:
        super().__init__()
        self.weight = constant(tensors(f"{name}.weight"))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normal.to(x.dtype)
