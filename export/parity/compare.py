"""Two recordings of one scene, quantity by quantity in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from export.parity.limits import Limits
from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.rung import Recording

SAME = ("scene_sha256", "positions", "family", "vlm_pe", "merge_rule", "prefill_attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One quantity, or one layer or step of it."""

    quantity: str
    layer: int | None = None
    step: int | None = None
    error: float  # relative, in the Euclidean norm
    largest: float  # of |got - want|
    cosine: float
    limit: float

    @property
    def within(self) -> bool:
        return self.error <= self.limit  # False for NaN

    @property
    def place(self) -> str:
        """E.g. "keys of layer 3", "logits of forced step 12"."""
        if self.layer is not None:
            return f"{self.quantity} of layer {self.layer}"
        return self.quantity if self.step is None else f"{self.quantity} {self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDifference:
    """Greedy tokens, each implementation running freely."""

    count: int  # compared
    equal: int  # before the first that differs
    margin: float | None = None  # of the reference where they part
    error: float | None = None  # by which a margin may be off: twice the largest error of a logit

    @property
    def coin_toss(self) -> bool:
        """Whether the first difference lies within the measured error."""
        return self.margin is not None and self.error is not None and self.margin <= self.error

    @property
    def same(self) -> bool:
        return self.equal == self.count


def compare(want: Recording, got: Recording, limits: Limits) -> tuple[list[Difference], TokenDifference]:
    """Raises SceneError where the recordings are not of the same scene, model and mode."""
    if wrong := [name for name in SAME if want.facts.get(name) != got.facts.get(name)]:
        raise SceneError(
            f"{got.name}: its recording has another {wrong[0]} ({got.facts.get(wrong[0])}) than that of {want.name} "
            f"({want.facts.get(wrong[0])}). Record both with one scene, one checkpoint and one mode; "
            f"--no_cleanup with both or with none."
        )
    steps = min(len(want.arrays["forced.ids"]), len(got.arrays["forced.ids"]))
    if not np.array_equal(want.arrays["forced.ids"][:steps], got.arrays["forced.ids"][:steps]):
        raise SceneError(f"{got.name}: its recording was fed other tokens than that of {want.name}. Record both anew.")
    differences = list(_differences(want.arrays, got.arrays, limits))
    return differences, _tokens(want.arrays, got.arrays, differences)


def _differences(want: dict[str, Array], got: dict[str, Array], limits: Limits) -> Iterator[Difference]:
    for name in ("cos_1d", "sin_1d", "cos_3d", "sin_3d"):
        key = f"tables.{name}"
        yield measure(f"table {name}", want[key], got[key], limits.tables)
    yield measure("point tokens", want["point_tokens"], got["point_tokens"], limits.point_tokens)
    yield from _rows("prompt", want["prefill.rows"], got["prefill.rows"], limits)
    logits = limits.logits_behind(want["prefill.rows"].shape[1] // 2)
    yield measure("logits after the prompt", want["prefill.logits"], got["prefill.logits"], logits)
    steps = min(len(want["forced.logits"]), len(got["forced.logits"]))
    for step in range(steps):
        a, b = want["forced.logits"][step], got["forced.logits"][step]
        yield measure("logits of forced step", a, b, logits, step=step)
    yield from _rows("forced tokens", want["forced.rows"][:steps], got["forced.rows"][:steps], limits)


def _rows(what: str, want: Array, got: Array, limits: Limits) -> Iterator[Difference]:
    """Layer by layer, keys before values; [rows, 2L, K, D]."""
    if want.shape[1:] != got.shape[1:]:
        raise SceneError(f"rows of the {what}: {list(got.shape)} were recorded, but {list(want.shape)} were expected.")
    layers = want.shape[1] // 2
    for layer in range(layers):
        for kind, index in (("keys", layer), ("values", layers + layer)):
            yield measure(f"{kind} of the {what}", want[:, index], got[:, index], limits.rows_of(layer), layer=layer)


def measure(
    quantity: str, want: Array, got: Array, limit: float, layer: int | None = None, step: int | None = None
) -> Difference:
    """How far `got` is from `want`. Raises SceneError where they have different shapes."""
    if want.shape != got.shape:
        raise SceneError(f"{quantity}: {list(got.shape)} was recorded, but {list(want.shape)} was expected.")
    a, b = want.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    norm, other = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    error = float(np.linalg.norm(a - b))
    known = np.isfinite([norm, other]).all() and norm and other
    return Difference(
        quantity=quantity,
        layer=layer,
        step=step,
        error=error / norm if norm else error,
        largest=float(np.abs(a - b).max(initial=0.0)),
        cosine=float(a @ b / (norm * other)) if known else float(norm == other),
        limit=limit,
    )


def _tokens(want: dict[str, Array], got: dict[str, Array], differences: list[Difference]) -> TokenDifference:
    a, b = want["free.tokens"], got["free.tokens"]
    count = min(len(a), len(b))
    parted = np.flatnonzero(a[:count] != b[:count])
    if not len(parted):
        return TokenDifference(count=count, equal=count)
    logits = [difference.largest for difference in differences if difference.quantity.startswith("logits")]
    first = int(parted[0])
    return TokenDifference(
        count=count, equal=first, margin=float(want["free.margins"][first]), error=2 * max(logits, default=0.0)
    )
