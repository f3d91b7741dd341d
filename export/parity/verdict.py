"""What the comparison of a rung means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from export.parity.compare import Difference, TokenDifference, compare
from export.parity.limits import Limits, limits_of
from runtime.rung import Recording

EQUAL, WITHIN, DIFFERENT = "equal", "equal within precision", "different"
NOT_CHECKED = "not checked"  # in manifests only


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A rung against another."""

    rung: str
    against: str
    limits: Limits
    differences: Sequence[Difference]
    tokens: TokenDifference

    @property
    def departure(self) -> Difference | None:
        """The first quantity, in the order of computation, that is off by more than precision explains."""
        return next((difference for difference in self.differences if not difference.within), None)

    @property
    def verdict(self) -> str:
        if self.departure is not None or not (self.tokens.same or self.tokens.coin_toss):
            return DIFFERENT
        exact = self.limits.why == limits_of({"precision": "fp32"}).why
        return EQUAL if exact and self.tokens.same else WITHIN

    @property
    def reason(self) -> str:
        """One sentence for people."""
        if (first := self.departure) is not None:
            error = f"off by {first.error:.2g}" if math.isfinite(first.error) else "values that are no numbers"
            return f"first departs at {first.place}: {error}, at most {first.limit:.2g} was expected."
        tokens = self.tokens
        if tokens.same:
            return f"all {tokens.count} greedy tokens are equal; {self.limits.why}."
        where = f"greedy token {tokens.equal} differs, where the margin is {tokens.margin:.2g}"
        if tokens.coin_toss:
            return f"{where} and logits are off by up to {(tokens.error or 0) / 2:.2g}: a coin toss."
        return f"{where}, more than the measured error of {tokens.error:.2g} explains."


def judge(want: Recording, got: Recording) -> Comparison:
    """Compare within the limits of the coarser of the two. Raises SceneError."""
    limits = max(limits_of(want.facts), limits_of(got.facts), key=lambda limits: limits.rows)
    differences, tokens = compare(want, got, limits)
    return Comparison(rung=got.name, against=want.name, limits=limits, differences=differences, tokens=tokens)
