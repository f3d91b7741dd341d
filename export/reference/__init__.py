"""The literal reference: transformers' own Qwen2 and Llama, with per-head 3D RoPE where it is asked for."""

from __future__ import annotations

from export.reference.model import Reference, ReferenceCache, build_reference

__all__ = ["Reference", "ReferenceCache", "build_reference"]
