"""All plans of a bundle for the GPU at hand: what is built, what is kept, and the record of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from export import VERSION
from export.engines.children import run_jobs
from export.engines.islands import DEFAULTS
from export.engines.job import Job, Outcome
from export.engines.kept import Digests, copy_plan, kept_plans, layout_in, plugins_in
from export.engines.options import BuildOptions
from export.engines.plugins import check_limits, check_plugins, find_plugins, plugin_notes, settle_plugins
from export.engines.profiles import Profiles, plan_profiles
from export.engines.progress import Bars
from export.engines.settle import settle, settled_plans
from export.engines.timing import TimingFile, default_file
from export.replacing import replacing
from plugins.library import Library
from runtime.bundle import Bundle
from runtime.engines.contract import check_dialect
from runtime.engines.cuda.gpu import Gpu, read_gpu
from runtime.engines.plans import PLUGINS, source_of
from runtime.engines.record import SCHEMA, EngineRecord, engine_folder, whole_of
from runtime.errors import BundleError, EngineError
from runtime.manifest import Manifest

GIGABYTE = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """What builds: a TensorRT and a GPU."""

    tensorrt: str
    strongly_typed: bool
    gpu: Gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A folder of engines that stands."""

    folder: Path
    record: EngineRecord
    graphs: tuple[str, ...]  # built now; the others were there
    notes: list[str]


def open_toolchain(device: int, precision: str) -> Toolchain:
    """Look for TensorRT and the GPU. Raises EngineError where one is missing or cannot build this precision."""
    try:
        from export.engines import compat
    except ModuleNotFoundError as error:
        raise EngineError(
            f"building engines needs the package {error.name!r}, which is not installed. "
            f"Install it: pip install '.[tensorrt]'"
        ) from error
    except (ImportError, OSError) as error:  # installed, but one of its shared libraries does not load
        raise EngineError(
            f"TensorRT is installed but cannot be loaded ({error}). "
            f"Install it anew: pip install --force-reinstall '.[tensorrt]'"
        ) from error
    if precision == "bf16" and not compat.strongly_typed():
        raise EngineError(
            f"the bundle is in bf16, which TensorRT {compat.VERSION} does not have. "
            f"Use TensorRT 9 or newer, or export again with --precision fp16."
        )
    return Toolchain(tensorrt=compat.VERSION, strongly_typed=compat.strongly_typed(), gpu=read_gpu(device))


def build_engines(bundle: Bundle, options: BuildOptions, *, silent: bool = False) -> Built:
    """Build the plans of a bundle; their folder is replaced whole at the end. Raises SceneError."""
    options.check()
    _check_bundle(bundle, options)
    profiles = plan_profiles(bundle.manifest, options.limits)
    tools = open_toolchain(options.device, bundle.manifest.precision)
    folder = engine_folder(bundle.folder, tools.gpu.name, tools.tensorrt, bundle.manifest.precision)
    present = None if options.graphs is None else layout_in(folder)
    stays = None if options.graphs is None else plugins_in(folder)
    options, hints = settle_plugins(options, bundle.manifest, tools.tensorrt, tools.gpu, stays)
    options = settle(options, bundle.manifest, present, strongly_typed=tools.strongly_typed)
    _check_graphs(bundle, options)
    names = settled_plans(options, bundle.manifest)
    library = find_plugins(tools.tensorrt, tools.gpu) if options.plugins else None
    cache = options.timing_cache or default_file(tools.gpu.name, tools.tensorrt)
    TimingFile(cache).read()  # refused here once rather than by every child
    blank = blank_record(bundle.manifest, options, tools)
    digests = graph_digests(bundle.manifest, names, plugins=bool(options.plugins))
    kept = kept_plans(folder, blank, digests, options.graphs, 0 if library is None else library.version)
    with replacing(folder, EngineError, "let the bundle's folder be written") as partial:
        task = Task(bundle, partial, folder.name, profiles, options, cache.absolute(), library)
        jobs = [task.job(graph, digests[graph]) for graph in names if graph not in kept]
        outcomes = _run(jobs, options.jobs or 1, silent)
        made = {graph: outcome.record for graph, outcome in outcomes.items() if outcome.record is not None}
        plans = kept | made
        record = replace(blank, plans={graph: plans[graph] for graph in names})
        for graph in kept:
            copy_plan(folder, partial, graph)
        record.write(partial)
    told = [] if library is None else list(plugin_notes(bundle.manifest, library, tools.gpu))
    notes = hints + told + list(dict.fromkeys(note for outcome in outcomes.values() for note in outcome.notes))
    return Built(folder=folder, record=record, graphs=tuple(made), notes=notes)


def _run(jobs: list[Job], at_once: int, silent: bool) -> dict[str, Outcome]:
    bars = Bars(silent)
    try:
        return run_jobs(jobs, at_once, bars)
    finally:
        bars.close()


def _check_bundle(bundle: Bundle, options: BuildOptions) -> None:
    check_dialect(bundle, "tensorrt")
    if options.plugins:
        check_plugins(bundle.manifest)
        check_limits(bundle.manifest, options.limits)
    _check_graphs(bundle, options)


def _check_graphs(bundle: Bundle, options: BuildOptions) -> None:
    sources = [source_of(plan, plugins=bool(options.plugins)) for plan in settled_plans(options, bundle.manifest)]
    if missing := [source for source in sources if source not in bundle.manifest.graphs]:
        again = f"python export_model.py --model {bundle.manifest.model} --output {bundle.folder}"
        raise BundleError(
            f"{bundle.folder}: the bundle has no graph {missing[0]!r}, for it was exported before such engines could "
            f"be built. Export it again: {again}"
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What the jobs of one build have in common."""

    bundle: Bundle
    folder: Path
    key: str
    profiles: dict[str, Profiles]
    options: BuildOptions
    timing_cache: Path
    library: Library | None = None

    def job(self, graph: str, digests: Digests) -> Job:
        options = self.options
        source = source_of(graph, plugins=bool(options.plugins))
        library = self.library if source in PLUGINS.values() else None  # its kernels decide about types themselves
        whole = whole_of(graph)
        islands = DEFAULTS[whole] if graph == "encoder" or options.islands is None else options.islands
        return Job(
            graph=graph,
            key=self.key,
            source=str(self.bundle.graph(source).resolve()),
            source_sha256=digests[0],
            weights_sha256=digests[1],
            folder=str(self.folder),
            precision=self.bundle.manifest.precision,
            profiles=self.profiles[whole],
            opt_level=options.opt_level,
            workspace=None if options.workspace is None else int(options.workspace * GIGABYTE),
            sharing=options.jobs or 1,
            device=options.device,
            timing_cache=str(self.timing_cache),
            islands=islands if library is None else (),
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            direct_io=options.direct_io,
            plugins="" if library is None else str(library.path.resolve()),
            plugins_version=0 if library is None else library.version,
        )


def graph_digests(manifest: Manifest, plans: Iterable[str], *, plugins: bool = False) -> dict[str, Digests]:
    """Of each plan's ONNX file and of its weights, as the manifest has them."""
    names = {plan: source_of(plan, plugins=plugins) for plan in plans}
    return {
        plan: (manifest.files[manifest.graphs[name]].sha256, manifest.files[manifest.weights[name]].sha256)
        for plan, name in names.items()
    }


def blank_record(manifest: Manifest, options: BuildOptions, tools: Toolchain) -> EngineRecord:
    """The record, its plans still missing."""
    return EngineRecord(
        schema=SCHEMA,
        created_by=f"spatiallm-export {VERSION}",
        tensorrt=tools.tensorrt,
        cuda=tools.gpu.cuda,
        driver=tools.gpu.driver,
        gpu=tools.gpu.name,
        compute_capability=tools.gpu.compute_capability,
        precision=manifest.precision,
        strongly_typed=tools.strongly_typed,
        opt_level=options.opt_level,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        plans={},
    )
