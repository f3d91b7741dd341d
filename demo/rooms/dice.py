"""Draws that rooms are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
Color = tuple[float, float, float]  # 0 .. 255


class Dice:
    """A stream of numbers that a seed and a purpose name: what one purpose draws does not move another's stream."""

    def __init__(self, seed: int, *purpose: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *purpose))))

    def between(self, low: float, high: float) -> float:
        """A number of low .. high."""
        return low + (high - low) * float(self.rng.random())

    def chance(self, probability: float) -> bool:
        """True as often as that."""
        return float(self.rng.random()) < probability

    def whole(self, low: int, high: int) -> int:
        """An integer of low .. high, both included."""
        return low + int(self.rng.random() * (high - low + 1))

    def one_of(self, items: Sequence[Item]) -> Item:
        """One of the items, each as likely."""
        return items[self.whole(0, len(items) - 1)]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, as likely as its weight."""
        mark = float(self.rng.random()) * sum(weights)
        for index, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return index
        return len(weights) - 1

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in a random order."""
        return [items[index] for index in np.argsort(self.rng.random(len(items)), kind="stable")]

    def tone(self, family: Sequence[Color], spread: float = 12.0) -> Color:
        """A colour near one of a family."""
        base = self.one_of(family)
        light = self.between(-spread, spread)
        red, green, blue = (channel + light + self.between(-spread, spread) / 2 for channel in base)
        return (red, green, blue)


def shaded(color: Color, factor: float) -> Color:
    """The colour, lighter or darker."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)
