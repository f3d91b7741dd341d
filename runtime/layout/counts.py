"""How many of what, in words."""

from __future__ import annotations

from runtime.layout.entities import Layout


def counts(layout: Layout) -> str:
    """6 walls, 1 door, 2 windows, 8 boxes."""
    kinds = (("wall", layout.walls), ("door", layout.doors), ("window", layout.windows), ("box", layout.boxes))
    return ", ".join(number_of(len(found), name) for name, found in kinds)


def number_of(count: int, name: str) -> str:
    """1 box, 2 boxes."""
    if count == 1:
        return f"1 {name}"
    return f"{count} {name}{'es' if name.endswith('x') else 's'}"
