"""Which compiled engines of a bundle fit the GPU and the TensorRT at hand, and what to do when none does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plugins.library import LibraryError, open_library
from runtime.bundle import Bundle, file_digest
from runtime.engines.record import (
    ENGINES,
    FILE_NAME,
    EngineRecord,
    PlanRecord,
    engine_folder,
    plan_names,
    rebuild,
    whole_of,
)
from runtime.errors import EngineError
from runtime.manifest import Manifest

if TYPE_CHECKING:  # its module needs the CUDA bindings, this one does not
    from runtime.engines.cuda.gpu import Gpu

SOURCES = {
    "encoder": "encoder",
    "language_model": "language_model.stacked",
    "prefill": "prefill.stacked",
    "decode": "decode.stacked",
}  # plan -> graph of the manifest
PLUGINS = {"prefill": "prefill.plugin", "decode": "decode.plugin"}  # plan that needs our plugin library -> graph


def source_of(plan: str, *, plugins: bool) -> str:
    """The graph of the manifest that a plan is built from."""
    graph, _, number = plan.partition(".")
    if number:
        return segment_name(graph, int(number))
    return PLUGINS.get(plan, SOURCES[plan]) if plugins else SOURCES[plan]


def segment_name(graph: str, number: int) -> str:
    """The manifest's graph of a segment of prefill or decode."""
    return f"{graph}.segment.{number}"


def count_segments(manifest: Manifest) -> int:
    """How many segments the bundle has graphs of; 0: it has none."""
    return next(number for number in itertools.count() if segment_name("decode", number) not in manifest.graphs)


PROFILES = {
    "encoder": ["encoder"],
    "language_model": ["prefill", "decode"],
    "prefill": ["prefill"],
    "decode": ["decode"],
}  # of each plan and its segments, in order


@dataclass(frozen=True, slots=True)
class Plans:
    """A folder of engines that fits."""

    folder: Path
    record: EngineRecord

    def check(self, graph: str, *, verify: bool) -> Path:
        """The plan of a graph, if its size and, with `verify`, its digest are those recorded. Raises EngineError."""
        plan = self.record.plans[graph]
        path = self.folder / plan.plan
        if not path.is_file():
            raise EngineError(f"{path}: missing, but the record beside it lists it. {rebuild(self.folder)}")
        if (size := path.stat().st_size) != plan.bytes:
            raise EngineError(
                f"{path}: has {size:,} bytes, but its record says {plan.bytes:,}. Copy it again. {rebuild(self.folder)}"
            )
        if verify and file_digest(path) != plan.sha256:
            raise EngineError(f"{path}: its SHA-256 is not the recorded one; it was altered. {rebuild(self.folder)}")
        return path

    def match(self, graph: str, shapes: Mapping[str, tuple[int, ...]], profiles: int) -> None:
        """Raise EngineError unless the record is of the very plan that has these inputs and so many profiles."""
        plan, expected = self.record.plans[graph], PROFILES[whole_of(graph)]
        if list(plan.profiles) != expected or profiles != len(expected):
            what = f"profiles ({', '.join(plan.profiles)}) are not {' and '.join(expected)}"
        elif wrong := sorted(name for name in shapes.keys() | plan.inputs.keys() if not _same(plan, name, shapes)):
            what = f"input {wrong[0]!r} is another one"
        else:
            return
        raise EngineError(f"{self.folder / FILE_NAME}: it is not about {plan.plan}: its {what}. {rebuild(self.folder)}")


def _same(plan: PlanRecord, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether an input has the recorded axes: their sizes, and letters of the profiles where dynamic."""
    axes, shape = plan.inputs.get(name, ()), shapes.get(name)
    if shape is None or len(axes) != len(shape):
        return False
    return all(_axis(axis, size, plan.profiles) for axis, size in zip(axes, shape, strict=True))


def _axis(axis: str, size: int, profiles: Mapping[str, Mapping[str, tuple[int, ...]]]) -> bool:
    """A size is itself; a letter is in all profiles, and where these leave one size only, the plan may have that."""
    ranges = [profile.get(axis, ()) for profile in profiles.values()]
    return axis == str(size) if not all(ranges) else size < 0 or all({*sizes} == {size} for sizes in ranges)


def find_plans(bundle: Bundle, gpu: Gpu, tensorrt: str) -> Plans:
    """The engines made for this GPU and TensorRT; else compatible ones. Raises EngineError saying why none fits."""
    own = engine_folder(bundle.folder, gpu.name, tensorrt, bundle.manifest.precision)
    reasons = []
    for folder in _folders(bundle.folder, own):
        try:
            record = EngineRecord.read(folder)
        except EngineError as error:  # one damaged folder says nothing about the others
            reasons.append(f"{folder.name}: its record cannot be used ({error.__cause__})")
            continue
        if (reason := misfit(record, bundle, gpu, tensorrt)) is None:
            return Plans(folder, record)
        reasons.append(f"{folder.name}: {reason}")
    if reasons:
        raise EngineError(
            f"{bundle.folder}: none of its engines can run here. {'; '.join(reasons)}. {rebuild(bundle.folder)}"
        )
    raise EngineError(
        f"{bundle.folder}: has no engines for {gpu.name} with TensorRT {tensorrt}. {rebuild(bundle.folder)}"
    )


def misfit(record: EngineRecord, bundle: Bundle, gpu: Gpu, tensorrt: str) -> str | None:
    """Why engines cannot run, or None."""
    if record.tensorrt != tensorrt and not _version_fits(record, tensorrt):
        return f"built with TensorRT {record.tensorrt}, but {tensorrt} is installed"
    if record.gpu != gpu.name and not _gpu_fits(record, gpu):
        return f"built for {record.gpu} (compute capability {record.compute_capability}), but this is {gpu.name}"
    if record.compute_capability != gpu.compute_capability and not _gpu_fits(record, gpu):
        return f"built for compute capability {record.compute_capability}, but this GPU has {gpu.compute_capability}"
    if record.precision != bundle.manifest.precision:
        return f"built in {record.precision}, but the bundle is in {bundle.manifest.precision}"
    plans = plan_names(record.language_model, count_segments(bundle.manifest))
    for graph in plans:
        if graph not in record.plans:
            return f"the plan of {graph} is missing"
        if _stale(record.plans[graph], bundle, graph):
            return f"the bundle was exported anew since {graph} was built"
    if surplus := sorted(record.plans.keys() - set(plans)):
        return f"its plan of {surplus[0]!r} does not go with this bundle and its other plans"
    return _no_plugins(record, gpu, tensorrt)


def _no_plugins(record: EngineRecord, gpu: Gpu, tensorrt: str) -> str | None:
    """Why the plugin library that the plans need is not here, or None. It is looked at, not given to TensorRT yet."""
    needed = {graph: plan.plugins for graph, plan in record.plans.items() if plan.plugins}
    for graph, version in needed.items():
        try:
            library = open_library(tensorrt)
        except LibraryError as error:
            return f"{graph} was built with plugins, and {error}"
        if library.version != version:
            return f"{graph} was built with version {version} of the plugin library, but {library.version} is here"
        if reason := library.misfit(gpu.name, gpu.compute_capability):
            return f"{graph} was built with plugins, and {reason}"
    return None


def _folders(bundle: Path, own: Path) -> Iterator[Path]:
    """Folders of engines, the one that should fit first."""
    root = bundle / ENGINES
    found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    yield from sorted((path for path in found if not path.name.startswith(".")), key=lambda path: path != own)


def _stale(plan: PlanRecord, bundle: Bundle, graph: str) -> bool:
    manifest = bundle.manifest
    name = source_of(graph, plugins=bool(plan.plugins))
    if name not in manifest.graphs:
        return True
    files = manifest.files[manifest.graphs[name]], manifest.files[manifest.weights[name]]
    return (plan.source_sha256, plan.weights_sha256) != tuple(file.sha256 for file in files)


def _version_fits(record: EngineRecord, tensorrt: str) -> bool:
    """Version-compatible plans run on newer TensorRT of the same major version, and on none older."""
    built, here = _numbers(record.tensorrt), _numbers(tensorrt)
    return record.version_compatible and built[:1] == here[:1] and built <= here


def _numbers(version: str) -> list[int]:
    """The first three numbers of "10.0.0b6" or "8.6.1.post1"; none where it does not begin with three."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return [int(part) for part in match.groups()] if match else []


def _gpu_fits(record: EngineRecord, gpu: Gpu) -> bool:
    """Hardware-compatible plans run on every GPU since Ampere (compute capability 8.0)."""
    return record.hardware_compatible and float(gpu.compute_capability) >= 8.0
