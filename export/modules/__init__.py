"""The graphs as torch modules: the rung of the parity ladder between the reference and ONNX."""

from __future__ import annotations

from export.modules.encoder import Encoder
from export.modules.language_model import Decode, LanguageModel, Prefill

__all__ = ["Decode", "Encoder", "LanguageModel", "Prefill"]
