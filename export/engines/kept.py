"""Plans that stay when only some graphs are built anew. They may have had other limits and another --opt_level."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.bundle import file_digest
from runtime.engines.record import FILE_NAME, EngineRecord, PlanRecord
from runtime.errors import EngineError

SAME = (
    "tensorrt",
    "gpu",
    "compute_capability",
    "precision",
    "strongly_typed",
    "version_compatible",
    "hardware_compatible",
)
ENDINGS = ("plan", "inspector.json", "log")
Digests = tuple[str, str]  # of a graph's ONNX file and of its weights


def kept_plans(
    folder: Path, blank: EngineRecord, digests: Mapping[str, Digests], wanted: Sequence[str] | None, plugins: int = 0
) -> dict[str, PlanRecord]:
    """The plans of `folder` that stay beside those `wanted`. Raises EngineError where one does not fit.

    `blank` is the record as it will be, `digests` are those of the bundle, for each plan that the engines need.
    None is wanted: all are, and none stays. `plugins` is the version of the plugin library, where that is used.
    """
    if not (rest := [graph for graph in digests if wanted is not None and graph not in wanted]):
        return {}
    if not (folder / FILE_NAME).exists():
        raise EngineError(f"{folder}: there is no {rest[0]} engine yet to go with the others. {_all()}")
    record = EngineRecord.read(folder)
    if wrong := [name for name in SAME if getattr(record, name) != getattr(blank, name)]:
        raise EngineError(f"{folder}: the engines there have another {wrong[0]}. {_all()}")
    for graph in rest:
        _check(folder, graph, record, digests[graph])
        if (version := record.plans[graph].plugins) and version != plugins:
            raise EngineError(
                f"{folder}: the {graph} engine there was built with version {version} of the plugin library, but "
                f"{plugins} is here. {_all()}"
            )
    return {graph: record.plans[graph] for graph in rest}


def layout_in(folder: Path) -> str | None:
    """The layout of the engines that are there, if any. Raises EngineError for a record that is none."""
    return EngineRecord.read(folder).language_model if (folder / FILE_NAME).exists() else None


def plugins_in(folder: Path) -> bool | None:
    """Whether the engines that are there, if any, have our kernels. Raises EngineError for a record that is none."""
    if not (folder / FILE_NAME).exists():
        return None
    return any(plan.plugins for plan in EngineRecord.read(folder).plans.values())


def copy_plan(folder: Path, target: Path, graph: str) -> None:
    """Put a kept plan and what belongs to it into the new folder, without a second copy where links are possible."""
    for ending in ENDINGS:
        source = folder / f"{graph}.{ending}"
        if source.is_file():
            try:
                os.link(source, target / source.name)
            except OSError:
                shutil.copyfile(source, target / source.name)


def _check(folder: Path, graph: str, record: EngineRecord, digests: Digests) -> None:
    if (plan := record.plans.get(graph)) is None:
        raise EngineError(f"{folder}: the record there has no {graph} engine. {_all()}")
    if (plan.source_sha256, plan.weights_sha256) != digests:
        raise EngineError(f"{folder}: the {graph} engine there was built from another graph. {_all()}")
    path = folder / f"{graph}.plan"
    if plan.plan != path.name or not path.is_file() or file_digest(path) != plan.sha256:
        raise EngineError(f"{path}: missing or altered since it was built. {_all()}")


def _all() -> str:
    return "Build all graphs: leave out --graphs."
