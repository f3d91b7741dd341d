"""How far a rung may be off, and why that much. Errors are relative: |got - want| / |want| in the Euclidean norm.

Roundings add up like a random walk: errors grow like the square root of the number of layers. Random weights of the
size of Qwen-0.5B in fp16 are off by 0.0005 in the first layer, 0.0021 in the eighth and 0.0048 in the last of 24.
In fp32 the limit is that of the encoder on a GPU, which was 2.4e-5 off at the published size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHALLOW = 8  # layers up to which limits are as they stand


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest relative errors by kind of quantity."""

    tables: float
    point_tokens: float
    rows: float
    logits: float
    why: str

    def rows_of(self, layer: int) -> float:
        """Of the keys and values of a layer; layers count from 0."""
        return self.rows * _growth(layer + 1)

    def logits_behind(self, layers: int) -> float:
        """Of logits behind so many layers."""
        return self.logits * _growth(layers)


def _growth(layers: int) -> float:
    return max(1.0, math.sqrt(layers / SHALLOW))


TABLES = 2e-6  # float32 on the host in every precision; cosines of other libraries differ in the last bit
LIMITS = {
    "fp32": Limits(TABLES, 6e-5, 6e-5, 6e-5, "float32 sums in another order"),
    "fp16": Limits(TABLES, 2e-3, 4e-3, 6e-3, "11 bits of mantissa in weights, hidden states and cache"),
    "bf16": Limits(TABLES, 1.5e-2, 3e-2, 5e-2, "8 bits of mantissa in weights, hidden states and cache"),
    "int8": Limits(TABLES, 6e-5, 0.1, 0.15, "weights of the language model in 8 bits"),
    "int4": Limits(TABLES, 6e-5, 1.0, 1.0, "weights of the language model in 4 bits; no promise is made"),
}


def limits_of(facts: dict[str, object]) -> Limits:
    """Of a recording: by its quantization where there is one, else by its precision."""
    bits = facts.get("quantization")
    return LIMITS[f"int{bits}" if bits else str(facts["precision"])]
