"""The choice of the next token from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.arrays import Array
from runtime.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy: the first of the largest logits."""

    temperature: float = 0.0
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0  # 1 keeps all
    repetition_penalty: float = 1.0
    seed: int | None = None


class TokenChooser:
    """Chooses a token for each sequence, remembering what each has seen (for the repetition penalty)."""

    def __init__(self, sampling: Sampling, prompts: Sequence[Array]) -> None:
        self._sampling = sampling
        # One source of chance for each sequence: what a scene gives does not depend on what runs beside it.
        self._random = [np.random.default_rng(sampling.seed) for _ in prompts]
        self._seen = [np.unique(prompt) for prompt in prompts] if sampling.repetition_penalty != 1.0 else []

    @property
    def greedy(self) -> bool:
        """Whether the choice needs nothing but the logits at hand: the first of the largest."""
        return self._sampling.temperature == 0.0 and self._sampling.repetition_penalty == 1.0

    def __call__(self, logits: Array) -> Array:
        """Logits [B, V], float32 -> token ids [B], int32. Raises EngineError where the logits are no numbers."""
        if self._seen:
            logits = np.stack([self._penalize(row, seen) for row, seen in zip(logits, self._seen, strict=True)])
        ids = logits.argmax(axis=-1)  # the first of the largest; where there is a nan, the nan
        refuse_overflow(logits[np.arange(len(ids)), ids])
        if self._sampling.temperature > 0.0:
            ids = np.array(
                [_draw(row, self._sampling, random) for row, random in zip(logits, self._random, strict=True)]
            )
        self._seen = [np.union1d(seen, [token]) for seen, token in zip(self._seen, ids, strict=False)]
        return np.asarray(ids, np.int32)

    def _penalize(self, logits: Array, seen: Array) -> Array:
        """Scores of seen tokens move away from being chosen (Keskar et al. 2019, as transformers applies it)."""
        penalty, scores = np.float32(self._sampling.repetition_penalty), logits[seen]
        logits = logits.copy()
        logits[seen] = np.where(scores < 0, scores * penalty, scores / penalty)
        return logits


def _draw(logits: Array, sampling: Sampling, random: np.random.Generator) -> int:
    chances = filtered_chances(logits, sampling)
    return int(random.choice(len(chances), p=chances))


def filtered_chances(logits: Array, sampling: Sampling) -> Array:
    """Probabilities [V], float64, after temperature, top-k and top-p, in this order, as transformers filters."""
    with np.errstate(over="ignore"):  # a tiny temperature takes all but the largest to minus infinity
        scores = (logits - logits.max()).astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        lowest = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        scores = np.where(scores < lowest, -np.inf, scores)
    if sampling.top_p < 1.0:
        order = np.argsort(scores, kind="stable")  # ascending; what falls into the tail of 1 - p goes
        tail = np.cumsum(_softmax(scores[order])) <= 1.0 - sampling.top_p
        tail[-1] = False
        scores[order[tail]] = -np.inf
    return _softmax(scores)


def refuse_overflow(largest: Array) -> None:
    """Raise EngineError where the largest logit of a sequence is no finite number."""
    if not np.isfinite(largest).all():
        raise EngineError(
            f"the model's largest logit is {largest.tolist()}, which is no number to choose by: its arithmetic "
            f"overflowed or its weights are damaged. Export the bundle again, in fp32 if it was in half precision."
        )


def _softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    chances: Array = weights / weights.sum()
    return chances
