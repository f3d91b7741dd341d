"""Numbers, facts and verdicts as the report writes them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a verdict looks; the sign and the word say it without the colour."""

    word: str
    sign: str
    style: str  # a class of style.css
    meaning: str


# From the best to the worst.
VERDICTS = {
    verdict.word: verdict
    for verdict in (
        Verdict("equal", "=", "equal", "Every quantity agrees within its limit, and every greedy token is equal."),
        Verdict(
            "equal within precision",
            "≈",
            "within",
            "Every quantity agrees within the limits of its precision. Where a greedy token differs, the reference "
            "itself was as good as undecided.",
        ),
        Verdict(
            "different",
            "≠",
            "different",
            "At least one rung is off by more than its precision explains. These comparisons failed:",
        ),
    )
}

LAYOUTS = {  # verdicts on the layout; the colours are those of the verdicts above
    "same": Verdict("same", "=", "equal", "Every entity has the same numbers."),
    "moved": Verdict("moved", "≈", "within", "Every entity is found again; numbers lie in other bins."),
    "other entities": Verdict("other entities", "≠", "different", "Entities are missing or new."),
}


def worst_verdict(words: list[str]) -> Verdict | None:
    """None where nothing was compared."""
    order = list(VERDICTS)
    return VERDICTS[max(words, key=order.index)] if words else None


def as_float(value: Any) -> float:
    """A number of the result; strict JSON has null where a number is not finite."""
    return math.nan if value is None else float(value)


def number(value: Any) -> str:
    """Two digits, e.g. "0.0021", "2e-6", "NaN", "infinite"."""
    x = as_float(value)
    if not math.isfinite(x):
        return "NaN" if math.isnan(x) else f"{'-' if x < 0 else ''}infinite"
    return re.sub(r"e([+-])0*", lambda match: "e" + match[1].strip("+"), f"{x:.2g}")


def cosine(value: Any) -> str:
    """Eight digits, e.g. "0.99999871"."""
    x = as_float(value)
    return f"{x:.8f}" if math.isfinite(x) else number(x)


def fact(value: Any) -> str:
    """A fact of a rung."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
