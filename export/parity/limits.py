"""How far a rung may be off, and why that much. Errors are relative: |got - want| / |want| in the Euclidean norm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest relative errors by kind of quantity."""

    tables: float
    point_tokens: float
    rows: float
    logits: float
    why: str


TABLES = 2e-6  # float32 on the host in every precision; cosines of other libraries differ in the last bit
LIMITS = {
    "fp32": Limits(TABLES, 2e-5, 2e-5, 2e-5, "float32 sums in another order"),
    "fp16": Limits(TABLES, 2e-3, 4e-3, 6e-3, "11 bits of mantissa in weights, hidden states and cache"),
    "bf16": Limits(TABLES, 1.5e-2, 3e-2, 5e-2, "8 bits of mantissa in weights, hidden states and cache"),
    "int8": Limits(TABLES, 2e-5, 0.1, 0.15, "weights of the language model in 8 bits"),
    "int4": Limits(TABLES, 2e-5, 1.0, 1.0, "weights of the language model in 4 bits; no promise is made"),
}


def limits_of(facts: dict[str, object]) -> Limits:
    """Of a recording: by its quantization where there is one, else by its precision."""
    bits = facts.get("quantization")
    return LIMITS[f"int{bits}" if bits else str(facts["precision"])]
