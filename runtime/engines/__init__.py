"""Engines: the contract, and the one place that knows which back end is which."""

from __future__ import annotations

from runtime.engines.choice import BACKENDS, Choice, choose, open_backend
from runtime.engines.contract import Backend, Engine, Tensor, TensorSpec, check_dialect

__all__ = [
    "BACKENDS",
    "Backend",
    "Choice",
    "Engine",
    "Tensor",
    "TensorSpec",
    "check_dialect",
    "choose",
    "open_backend",
]
