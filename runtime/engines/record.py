"""The record beside compiled engines: what they were built from, for what, and with what.

`export.build` writes it, the runtime reads it and owns the definition.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import EngineError
from runtime.files import read_small_text
from runtime.records import from_json

SCHEMA = 1
FILE_NAME = "engine.json"
ENGINES = "engines"  # folder of a bundle
# The language model compiled once with a profile for prefill and one for decode, once for each, or in segments of a
# few layers for each.
SHARED, SEPARATE, SEGMENTED = LAYOUTS = ("shared", "separate", "segmented")


def plan_names(layout: str, segments: int = 0) -> tuple[str, ...]:
    """The plans of a layout."""
    if layout == SHARED:
        return "encoder", "language_model"
    if layout == SEPARATE:
        return "encoder", "prefill", "decode"
    return "encoder", *segments_of("prefill", segments), *segments_of("decode", segments)


def segments_of(graph: str, count: int) -> tuple[str, ...]:
    """Plans of the segments of a graph."""
    return tuple(f"{graph}.{number}" for number in range(count))


def whole_of(plan: str) -> str:
    """The graph that a plan is, or is a segment of."""
    return plan.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One compiled graph."""

    source: str  # the ONNX file of the bundle
    source_sha256: str
    weights_sha256: str
    plan: str  # file beside the record
    bytes: int
    sha256: str
    inputs: dict[str, tuple[str, ...]]  # name -> axes, a letter where dynamic, e.g. ("M", "B", "96", "64")
    profiles: dict[str, dict[str, tuple[int, ...]]]  # by name, in order: letter -> smallest, likeliest, largest size
    seconds: float  # of the build
    warm: bool  # the timing cache knew this graph
    layers: int  # as TensorRT made them
    reformats: int  # of these, copies that only change a format
    warnings: tuple[str, ...]  # of the builder
    islands: tuple[str, ...] = ()  # parts held in their type, where TensorRT chose types
    plugins: int = 0  # version of our plugin library, which running it takes; 0: none


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """The plans of one bundle for one GPU and one TensorRT."""

    schema: int
    created_by: str
    tensorrt: str
    cuda: str  # of the library that built, e.g. "12.4"
    driver: str
    gpu: str
    compute_capability: str  # e.g. "9.0"
    precision: str
    strongly_typed: bool  # False where TensorRT chose precisions (before version 9)
    opt_level: int  # of the last build; plans that were kept may have had another
    version_compatible: bool
    hardware_compatible: bool
    plans: dict[str, PlanRecord]  # those of `plan_names`

    @property
    def language_model(self) -> str:
        """How the language model is compiled, one of LAYOUTS."""
        if "language_model" in self.plans:
            return SHARED
        return SEGMENTED if any(plan.startswith("prefill.") for plan in self.plans) else SEPARATE

    def plans_of(self, graph: str) -> list[str]:
        """The plans that make encoder, prefill or decode up, in order, whatever the order of the record."""
        if graph in self.plans:
            return [graph]
        numbered = (f"{graph}.{number}" for number in itertools.count())
        return list(itertools.takewhile(self.plans.__contains__, numbered)) or ["language_model"]

    @classmethod
    def read(cls, folder: Path) -> EngineRecord:
        """Read `engine.json`. Raises EngineError."""
        path = folder / FILE_NAME
        try:
            facts = json.loads(read_small_text(path))
            if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            record: EngineRecord = from_json(cls, facts, "engine")
            for graph, plan in record.plans.items():
                _check(graph, plan)
        except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise EngineError(f"{path}: not a usable record of engines ({error}). {rebuild(folder)}") from error
        return record

    def write(self, folder: Path) -> None:
        """Write `engine.json` into a folder."""
        (folder / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")


def _check(graph: str, plan: PlanRecord) -> None:
    """Raise ValueError for a plan that lies elsewhere, or ranges that are none."""
    if plan.plan != f"{graph}.plan":
        raise ValueError(f"the plan of {graph} is {plan.plan!r}, but {graph}.plan lies beside the record")
    for name, ranges in plan.profiles.items():
        for letter, sizes in ranges.items():
            if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise ValueError(
                    f"{graph}.{name}.{letter} is {[*sizes]}, but smallest, likeliest, largest are expected"
                )


def engine_folder(bundle: Path, gpu: str, tensorrt: str, precision: str) -> Path:
    """Where the engines of a bundle for a GPU and a TensorRT lie."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return bundle / ENGINES / f"{slug}-trt{tensorrt}-{precision}"


def rebuild(folder: Path) -> str:
    """What to do about engines that cannot be used. `folder` is that of the engines or the bundle's own."""
    bundle = folder.parent.parent if folder.parent.name == ENGINES else folder
    return f"Build them: python -m export.build --bundle {bundle}"
