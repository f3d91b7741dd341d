"""What the build matrix varies: the layout of the engines, how types are settled, how long TensorRT searches."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from export.engines.options import OPT_LEVELS, BuildOptions
from runtime.engines.record import LAYOUTS, plan_names, whole_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Types:
    """How TensorRT 8.6 is kept from half precision where that overflows, and from trying types in vain."""

    islands: tuple[str, ...] = ()
    scaled: bool = False  # graphs whose norms are finite in half precision
    direct_io: bool = False  # the border has the graph's types, and no others are tried


TYPES = {
    "held": Types(islands=("norm",)),
    "free": Types(),
    "whole": Types(islands=("all",)),  # float32: twice the bytes, but compiled once
    "scaled": Types(scaled=True),
    "held-half": Types(islands=("norm", "half")),
    "scaled-half": Types(islands=("half",), scaled=True),
    "held-io": Types(islands=("norm",), direct_io=True),
    "held-half-io": Types(islands=("norm", "half"), direct_io=True),
    "scaled-half-io": Types(islands=("half",), scaled=True, direct_io=True),
}
# What must be finite first, then what may be fast to build, then what is there to compare with.
DEFAULT = (
    "segmented:held:3",
    "segmented:scaled:3",
    "separate:held:3",
    "separate:scaled:3",
    "separate:whole:3",
    "separate:held-half:3",
    "separate:scaled-half:3",
    "separate:held-half-io:3",
    "separate:free:3",
    "separate:held:1",
    "separate:free:1",
    "shared:held-half:3",
    "shared:free:3",
    "shared:held:1",
    "shared:free:1",
    "shared:held:3",
)
ENCODER_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """One plan to build."""

    plan: str
    kind: str
    level: int

    @property
    def types(self) -> Types:
        return TYPES[self.kind]

    @property
    def name(self) -> str:
        return f"{self.plan}-{self.kind}-{self.level}"

    def options(self, common: BuildOptions) -> BuildOptions:
        """Those of one build that differ from the others'."""
        types = self.types
        return replace(common, opt_level=self.level, islands=types.islands, direct_io=types.direct_io, jobs=1)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to build all engines of a bundle."""

    layout: str
    kind: str
    level: int

    @classmethod
    def parse(cls, text: str) -> Way:
        """From LAYOUT:TYPES:LEVEL, as an option of a command line."""
        layout, kind, level = (*text.split(":"), "", "")[:3]
        if layout not in LAYOUTS or kind not in TYPES or level not in map(str, OPT_LEVELS):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not one of {{{','.join(LAYOUTS)}}}:{{{','.join(TYPES)}}}:LEVEL"
            )
        return cls(layout, kind, int(level))

    @property
    def types(self) -> Types:
        return TYPES[self.kind]

    @property
    def name(self) -> str:
        return f"{self.layout}-{self.kind}-{self.level}"

    def cells(self, segments: int) -> tuple[Cell, ...]:
        """The encoder's body is float32 whatever the way, so all share its plan, which takes long and comes first."""
        names = [plan for plan in plan_names(self.layout, segments) if whole_of(plan) != "encoder"]
        return (Cell("encoder", "free", ENCODER_LEVEL), *(Cell(plan, self.kind, self.level) for plan in names))
