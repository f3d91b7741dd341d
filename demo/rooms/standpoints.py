"""Where a scanner stands, so that it sees the whole room densely enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from demo.rooms.dice import Dice
from demo.rooms.footprints import Footprint
from demo.rooms.plans import Corner, Plan, Side

FEWEST_RAYS, MOST_RAYS = 18_500, 40_000  # of a scan; some are lost
RAYS_A_SQUARE_METRE = 650  # of floor, at least
CLEAR = 0.35  # metres between a scanner and what stands around it
MOST_PLACES = 3
TRIED, COMPARED = 40, 8  # places on the floor, and free ones for each of the scanner's places
SHARES = (0.05, 0.35, 0.65, 0.95)  # of a wall, where its density is looked at
DENSE = 45.0  # returns for each square metre of the wall that is worst off
GRAZING = 0.3  # taken for the cosine of incidence at least, since a corner has two walls

Place = tuple[float, float, float]


def ray_count(plan: Plan, dice: Dice) -> int:
    """How many rays a scan of this room has, more for a large one."""
    area = plan.outline.width * plan.outline.depth - sum(notch.width * notch.depth for notch in plan.notches)
    fewest = min(max(FEWEST_RAYS, RAYS_A_SQUARE_METRE * area), MOST_RAYS)
    return int(math.exp(dice.between(math.log(fewest), math.log(MOST_RAYS))))


def standpoints(plan: Plan, footprints: Sequence[Footprint], rays: int, dice: Dice) -> list[Place] | None:
    """One to three places at head height, spread so that all walls are in sight; None where none were found.

    Each place is the best of a few for what the places before it see worst. More are added than were drawn where a
    wall would stay too sparse.
    """
    wanted = 1 + dice.weighted((0.35, 0.4, 0.25))
    targets = [(side, side.at(share * side.length, 0.01)) for side in plan.sides for share in SHARES]
    spots = [spot for _ in range(TRIED) if (spot := _spot(plan, footprints, dice)) is not None]
    chosen: list[Place] = []
    seen = [0.0] * len(targets)  # the sum of cosine / distance ** 2 over the places
    while spots and len(chosen) < MOST_PLACES:
        views = [
            [now + _view(plan, spot, *target) for now, target in zip(seen, targets, strict=True)]
            for spot in spots[:COMPARED]
        ]
        best = max(range(len(views)), key=lambda index: min(views[index]))
        seen = views[best]
        chosen.append((*spots.pop(best), dice.between(1.3, 1.8)))
        if len(chosen) >= wanted and rays / len(chosen) / (4 * math.pi) * min(seen) >= DENSE:
            break
    return chosen if min(seen) > 0 else None


def _spot(plan: Plan, footprints: Sequence[Footprint], dice: Dice) -> Corner | None:
    """A free place on the floor, if the first try is one."""
    outline = plan.outline
    x = outline.x + outline.width * dice.between(-0.5, 0.5)
    y = outline.y + outline.depth * dice.between(-0.5, 0.5)
    around = Footprint(x, y, 2 * CLEAR, 2 * CLEAR)
    return (x, y) if plan.holds(around) and not any(around.overlaps(other) for other in footprints) else None


def _view(plan: Plan, place: Corner, side: Side, target: Corner) -> float:
    """Cosine of incidence over squared distance, to which the density of returns goes; 0 out of sight."""
    if any(notch.crossed_by(place, target) for notch in plan.notches):
        return 0.0
    dx, dy = place[0] - target[0], place[1] - target[1]
    x, y = side.along
    far = math.hypot(dx, dy)
    return max((x * dy - y * dx) / far, GRAZING) / (far * far)
