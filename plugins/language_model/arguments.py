"""What the language model's operator is given: the structs of launch.h and common/model.h, for calls through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from plugins.decode_step.sizes import Sizes

LAYER_TENSORS = ("input_norm", "qkv", "qkv_bias", "o", "post_norm", "gate_up", "down")  # addresses, one row a layer
_SIZES = ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocabulary", "qkv_bias", "bf16")
_COUNTS = ("batch", "rows", "past_rows", "causal", "all_logits")
_INPUTS = (
    "ids",
    "point_embeds",
    "point_mask",
    "cos_3d",
    "sin_3d",
    "cos_1d",
    "sin_1d",
    "lengths",
    "past_length",
    "past",
)


class ModelSizes(ctypes.Structure):
    """`ModelSizes` of common/model.h."""

    _fields_ = [*((name, ctypes.c_int) for name in _SIZES), ("epsilon", ctypes.c_float)]

    @classmethod
    def of(cls, sizes: Sizes) -> ModelSizes:
        return cls(**{name: int(getattr(sizes, name)) for name in _SIZES}, epsilon=sizes.epsilon)


class ModelWeights(ctypes.Structure):
    """`ModelWeights`: addresses on the device, and on the host an array of them for the layers."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("embedding", "final_norm", "head", "layers")]

    @classmethod
    def of(cls, addresses: Mapping[str, int], layers: int) -> ModelWeights:
        """From addresses by name, those of layers with their layer in front ("0.qkv"); the head may be left out."""
        names = [f"{layer}.{name}" for layer in range(layers) for name in LAYER_TENSORS]
        table = (ctypes.c_void_p * len(names))(*(addresses.get(name) for name in names))
        embedding = addresses["embedding"]
        made = cls(
            embedding=embedding,
            final_norm=addresses["final_norm"],
            head=addresses.get("head", embedding),
            layers=ctypes.cast(table, ctypes.c_void_p),
        )
        made.table = table  # lives as long as what points at it
        return made


class LanguageModelTensors(ctypes.Structure):
    """`LanguageModelTensors`: addresses on the device; null (None) where launch.h allows it."""

    _fields_ = [
        *((name, ctypes.c_int) for name in _COUNTS),
        *((name, ctypes.c_void_p) for name in _INPUTS),
        ("weights", ModelWeights),
        ("logits", ctypes.c_void_p),
        ("new_rows", ctypes.c_void_p),
    ]
