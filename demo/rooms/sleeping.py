"""Furniture of bedrooms. Every builder stands its piece with the back at y = 0 and the front towards +y, z from 0."""

from __future__ import annotations

from demo.rooms import palette
from demo.rooms.dice import Dice, shaded
from demo.rooms.parts import Part, block


def bed(dice: Dice) -> list[Part]:
    """Headboard, base, mattress, blanket, and a pillow for each sleeper."""
    double = dice.chance(0.65)
    half = dice.between(0.7, 0.95) if double else dice.between(0.45, 0.58)
    length, top, head = dice.between(2.0, 2.2), dice.between(0.42, 0.55), dice.between(0.8, 1.2)
    wood, blanket = dice.tone(palette.WOODS + palette.GREYS), dice.tone(palette.BLANKETS, 20)
    linen = dice.tone(palette.LINENS, 5)
    parts = [
        block((-half, half), (0, 0.08), (0, head), wood),
        block((-half, half), (0.08, length), (0.08, 0.28), wood),
        block((-half + 0.03, half - 0.03), (0.08, length - 0.03), (0.28, top), linen),
        block((-half, half), (dice.between(0.65, 1.1), length), (0.3, top + 0.05), blanket),
    ]
    for middle in (-half / 2, half / 2) if double else (0.0,):
        width = min(0.34, half * 0.42 if double else 0.3)
        parts.append(block((middle - width, middle + width), (0.14, 0.52), (top, top + 0.14), shaded(linen, 0.97)))
    return parts


def nightstand(dice: Dice) -> list[Part]:
    """A small cabinet with two drawers."""
    half, depth, height = dice.between(0.2, 0.28), dice.between(0.35, 0.45), dice.between(0.42, 0.6)
    body = dice.tone(palette.WOODS + palette.WHITES)
    parts = [block((-half, half), (0, depth), (0.04, height), body)]
    for low, high in ((0.07, height / 2 - 0.01), (height / 2 + 0.02, height - 0.04)):
        parts.append(block((-half + 0.02, half - 0.02), (depth, depth + 0.015), (low, high), shaded(body, 0.85)))
        middle = (low + high) / 2
        parts.append(block((-0.05, 0.05), (depth, depth + 0.04), (middle - 0.015, middle + 0.015), palette.DARKS[0]))
    return parts


def wardrobe(dice: Dice) -> list[Part]:
    """A body that shows as dark seams between its doors."""
    half, depth, height = dice.between(0.5, 1.2), dice.between(0.55, 0.65), dice.between(1.9, 2.35)
    body = dice.tone(palette.WHITES + palette.LIGHT_WOODS + palette.DARK_WOODS)
    doors = max(2, round(2 * half / 0.5))
    parts = [block((-half, half), (0, depth), (0, height), shaded(body, 0.6))]
    parts += [block((-half, half), (0, depth + 0.02), (height - 0.05, height), body)]
    width = 2 * half / doors
    for door in range(doors):
        left = -half + door * width
        parts.append(block((left + 0.015, left + width - 0.015), (depth, depth + 0.02), (0.08, height - 0.06), body))
        handle = left + width - 0.07 if door % 2 == 0 else left + 0.07
        parts.append(block((handle - 0.015, handle + 0.015), (depth, depth + 0.05), (0.9, 1.2), palette.DARKS[0]))
    return parts
