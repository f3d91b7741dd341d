"""Furniture of living rooms, kitchens and studies. Backs at y = 0, fronts towards +y, z from 0."""

from __future__ import annotations

import math

from demo.rooms import palette
from demo.rooms.dice import Color, Dice, shaded
from demo.rooms.parts import Part, block, cylinder, ellipsoid


def sofa(dice: Dice) -> list[Part]:
    """Base, back, two arms, seat cushions, sometimes a coloured cushion."""
    half, depth, height = dice.between(0.75, 1.2), dice.between(0.8, 1.0), dice.between(0.75, 0.95)
    arm, seat, fabric = dice.between(0.14, 0.22), dice.between(0.38, 0.46), dice.tone(palette.FABRICS, 18)
    inside = half - arm
    parts = [
        block((-half, half), (0, depth), (0.06, 0.3), fabric),
        block((-half, half), (0, 0.22), (0.06, height), fabric),
        block((-half, -inside), (0, depth), (0.06, 0.62), shaded(fabric, 0.92)),
        block((inside, half), (0, depth), (0.06, 0.62), shaded(fabric, 0.92)),
    ]
    seats = 3 if half > 1.0 else 2
    width = 2 * inside / seats
    for place in range(seats):
        left = -inside + place * width
        x = (left + 0.01, left + width - 0.01)
        parts.append(block(x, (0.22, depth - 0.02), (0.3, seat), shaded(fabric, 1.1)))
        parts.append(block(x, (0.22, 0.34), (seat, height - 0.08), shaded(fabric, 1.06)))
    if dice.chance(0.6):
        x0 = dice.between(-inside, inside - 0.42)
        parts.append(block((x0, x0 + 0.4), (0.34, 0.46), (seat, seat + 0.36), dice.tone(palette.BLANKETS)))
    return parts


def _legs(half: float, depth: float, height: float, thick: float, color: Color) -> list[Part]:
    spans_x = ((-half, -half + thick), (half - thick, half))
    spans_y = ((0.0, thick), (depth - thick, depth))
    return [block(x, y, (0, height), color) for x in spans_x for y in spans_y]


def coffee_table(dice: Dice) -> list[Part]:
    """A low table with a shelf below."""
    half, depth, height = dice.between(0.4, 0.65), dice.between(0.5, 0.7), dice.between(0.35, 0.47)
    wood = dice.tone(palette.WOODS + palette.DARKS)
    parts = _legs(half, depth, height - 0.04, 0.06, shaded(wood, 0.8))
    parts.append(block((-half, half), (0, depth), (height - 0.05, height), wood))
    if dice.chance(0.6):
        parts.append(block((-half + 0.03, half - 0.03), (0.03, depth - 0.03), (0.1, 0.13), shaded(wood, 0.9)))
    return parts


def dining_table(dice: Dice) -> list[Part]:
    """A top on four legs, or a round one on a column."""
    wood, height = dice.tone(palette.WOODS), dice.between(0.72, 0.78)
    if dice.chance(0.2):
        radius = dice.between(0.45, 0.6)
        return [
            cylinder(0, radius, radius, (height - 0.04, height), wood),
            cylinder(0, radius, 0.06, (0, height - 0.04), shaded(wood, 0.8)),
            cylinder(0, radius, radius * 0.5, (0, 0.04), shaded(wood, 0.8)),
        ]
    half, depth = dice.between(0.6, 1.0), dice.between(0.75, 1.0)
    return [
        *_legs(half - 0.04, depth - 0.04, height - 0.04, 0.07, shaded(wood, 0.8)),
        block((-half, half), (-0.04, depth), (height - 0.04, height), wood),
    ]


def dining_chair(dice: Dice) -> list[Part]:
    """Legs, seat and back."""
    half, depth, height = dice.between(0.21, 0.25), dice.between(0.45, 0.54), dice.between(0.82, 1.0)
    seat, wood = dice.between(0.43, 0.48), dice.tone(palette.WOODS + palette.DARKS)
    cloth = dice.tone(palette.FABRICS) if dice.chance(0.5) else wood
    return [
        *_legs(half, depth, seat - 0.04, 0.045, wood),
        block((-half, half), (0, depth), (seat - 0.05, seat), cloth),
        block((-half, half), (0, 0.05), (seat, height), cloth),
    ]


def desk(dice: Dice) -> list[Part]:
    """A top on a panel and a block of drawers, with a panel behind the knees."""
    half, depth, height = dice.between(0.5, 0.8), dice.between(0.55, 0.75), dice.between(0.72, 0.78)
    wood, side = dice.tone(palette.LIGHT_WOODS + palette.WHITES), dice.one_of((-1, 1))
    drawers, panel = (half - 0.42, half), (-half, -half + 0.04)
    if side < 0:
        drawers, panel = (-half, -half + 0.42), (half - 0.04, half)
    parts = [
        block((-half, half), (0, depth), (height - 0.04, height), wood),
        block(drawers, (0.02, depth - 0.03), (0.03, height - 0.04), shaded(wood, 0.88)),
        block(panel, (0.02, depth - 0.03), (0, height - 0.04), shaded(wood, 0.94)),
        block((-half + 0.02, half - 0.02), (0.02, 0.05), (0.3, height - 0.04), shaded(wood, 0.9)),
    ]
    for z in (0.2, 0.4, 0.6):
        x = (drawers[0] + 0.12, drawers[1] - 0.12)
        parts.append(block(x, (depth - 0.03, depth - 0.01), (z - 0.015, z + 0.015), palette.DARKS[0]))
    return parts


def tv_cabinet(dice: Dice) -> list[Part]:
    """Low, long and shallow: drawers at the ends and an open shelf between them."""
    half, depth, height = dice.between(0.6, 1.1), dice.between(0.35, 0.45), dice.between(0.36, 0.54)
    body = dice.tone(palette.WHITES + palette.DARK_WOODS)
    third, middle = half / 3, height / 2
    parts = [
        block((-half, half), (0, 0.03), (0.05, height), shaded(body, 0.7)),
        block((-half, half), (0, depth), (height - 0.04, height), body),
        block((-half, half), (0, depth), (0.05, 0.09), body),
        block((-third, third), (0, depth - 0.02), (middle - 0.015, middle + 0.015), shaded(body, 0.9)),
    ]
    for x in ((-half, -third), (third, half)):
        parts.append(block(x, (0, depth - 0.01), (0.09, height - 0.04), shaded(body, 0.85)))
        parts.append(block((x[0] + 0.02, x[1] - 0.02), (depth - 0.01, depth), (0.1, height - 0.06), body))
    return parts


def bookcase(dice: Dice) -> list[Part]:
    """Sides, back, shelves, and books of many colours."""
    half, depth, height = dice.between(0.35, 0.7), dice.between(0.28, 0.38), dice.between(1.6, 2.1)
    wood, shelves = dice.tone(palette.WOODS + palette.WHITES), dice.whole(4, 6)
    parts = [
        block((-half, half), (0, 0.02), (0, height), shaded(wood, 0.75)),
        block((-half, -half + 0.03), (0, depth), (0, height), wood),
        block((half - 0.03, half), (0, depth), (0, height), wood),
    ]
    gap = (height - 0.03) / shelves
    for shelf in range(shelves + 1):
        z = shelf * gap
        parts.append(block((-half, half), (0, depth), (z, z + 0.03), wood))
        if shelf < shelves:
            parts += _books(dice, (-half + 0.04, half - 0.04), depth, z + 0.03, gap - 0.03)
    return parts


def _books(dice: Dice, x: tuple[float, float], depth: float, z: float, room: float) -> list[Part]:
    parts, left = [], x[0] + dice.between(0.0, 0.1)
    while left < x[1] - 0.08:
        right = min(x[1], left + dice.between(0.1, 0.3))
        top = z + room * dice.between(0.55, 0.9)
        parts.append(block((left, right), (0.02, depth * dice.between(0.6, 0.9)), (z, top), dice.tone(palette.BOOKS)))
        left = right + (dice.between(0.08, 0.25) if dice.chance(0.3) else 0.0)
    return parts


def refrigerator(dice: Dice) -> list[Part]:
    """Two doors above each other, with upright handles."""
    half, depth, height = dice.between(0.29, 0.45), dice.between(0.58, 0.68), dice.between(1.6, 1.9)
    steel, split = dice.tone(palette.STEELS, 6), dice.between(0.4, 0.65) * height
    handle = (half - 0.09, half - 0.06)
    return [
        block((-half, half), (0, depth), (0.02, height), shaded(steel, 0.75)),
        block((-half, half), (depth, depth + 0.05), (0.04, split - 0.015), steel),
        block((-half, half), (depth, depth + 0.05), (split + 0.015, height), steel),
        block(handle, (depth + 0.05, depth + 0.09), (split - 0.4, split - 0.06), palette.DARKS[0]),
        block(handle, (depth + 0.05, depth + 0.09), (split + 0.06, split + 0.4), palette.DARKS[0]),
    ]


def plants(dice: Dice) -> list[Part]:
    """A pot, a stem, and leaves that let rays through."""
    reach, height, pot = dice.between(0.24, 0.45), dice.between(0.8, 1.6), dice.between(0.12, 0.18)
    low, green = dice.between(0.4, 0.5) * height, dice.tone(palette.GREENS)
    middle = (low + height) / 2
    crown = ((-reach, reach), (-reach, reach), (low, height))
    parts = [
        cylinder(0, 0, pot, (0, min(0.35, 0.8 * low)), dice.tone(palette.CLAYS)),
        cylinder(0, 0, 0.02, (0, middle), palette.DARK_WOODS[0]),
        ellipsoid(*crown, green, porous=0.6),
    ]
    for turn in range(5):
        angle, size = turn * 2 * math.pi / 5 + dice.between(0, 1), reach * dice.between(0.4, 0.6)
        away, z = (reach - size) * 0.9, dice.between(low + size, max(low + size, height - size))
        x, y = away * math.cos(angle), away * math.sin(angle)
        leaf = ((x - size, x + size), (y - size, y + size), (max(low, z - size), min(height, z + size)))
        parts.append(ellipsoid(*leaf, shaded(green, dice.between(0.75, 1.25)), porous=0.25))
    return parts
