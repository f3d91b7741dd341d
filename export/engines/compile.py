"""Compiling one graph, in the child process: ONNX in, plan, inspector's report and record out."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from export.engines import compat
from export.engines.inspection import LayerCount, count_layers
from export.engines.islands import WHOLE, pin_islands
from export.engines.job import Job
from export.engines.messages import read_messages
from export.engines.options import default_workspace
from export.engines.phases import Phases
from export.engines.timing import TimingFile
from plugins.library import BUILD, telling
from runtime.engines.cuda.gpu import free_memory, select_gpu
from runtime.engines.record import PlanRecord
from runtime.engines.trt_compat import load_plugins
from runtime.errors import EngineError

Emit = Callable[..., None]  # event, facts by name
CONSEQUENCE = "engine != nullptr"  # an error that only says that there were others
NO_REASON = "it gives no reason"
NO_MEMORY = re.compile(r"out ?of ?memory|insufficient (memory|workspace)|requested amount of gpu memory", re.I)


@dataclass(frozen=True, slots=True)
class Network:
    """A parsed graph. The parser must live as long: it owns the weights."""

    definition: Any
    parser: Any
    inputs: dict[str, tuple[str, ...]]  # name -> axes, letters where dynamic

    @property
    def letters(self) -> set[str]:
        return {axis for axes in self.inputs.values() for axis in axes if not axis.isdigit()}


def compile_graph(job: Job, emit: Emit) -> None:
    """Build, write, report; the timing cache comes last, because saving it can end the process. Raises EngineError.

    What TensorRT writes to this process's streams must go into the job's log: errors and warnings are read there.
    """
    select_gpu(job.device)
    started, log = time.perf_counter(), compat.new_log()
    builder = compat.new_builder(log)
    _load_plugins(job)
    emit("phase", text="reading the graph")
    network = _read(job, builder, log)
    config = _config(job, builder, network, emit)
    timing = TimingFile(Path(job.timing_cache))
    known = timing.read()
    if not (accepted := compat.use_timing_cache(config, known)):
        emit(
            "note",
            text=f"{timing.path}: the timing cache is damaged, or of another GPU or TensorRT; it is not used, nor "
            f"changed. Delete it, or choose another --timing_cache.",
        )
    warm = accepted and timing.knows(known, job.digest)  # now: at the end other builds have written their lists
    emit("phase", text="building")
    plan = builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise EngineError(_failure(job, read_messages(job.log).errors))
    _write(job, plan)
    record = _record(job, network, plan, time.perf_counter() - started, warm)
    emit("plan", record=asdict(record))
    count = _inspect(job, plan, log, emit)
    emit("plan", record=asdict(replace(record, layers=count.layers, reformats=count.reformats)))
    if accepted:
        _save_timing(job.digest, timing, config, emit)


def _load_plugins(job: Job) -> None:
    if job.plugins and not load_plugins(job.plugins):
        raise EngineError(
            f"{job.plugins}: TensorRT {compat.VERSION} does not take this plugin library: "
            f"{[NO_REASON, *read_messages(job.log).errors][-1]}. Build it anew: {BUILD}"
        )


def _write(job: Job, plan: Any) -> None:
    try:
        job.plan.write_bytes(memoryview(plan))
    except OSError as error:
        raise EngineError(
            f"{job.plan.parent.parent / job.key}: the {job.graph} engine cannot be written "
            f"({error.strerror or error}). Make room for {memoryview(plan).nbytes / 1e6:,.1f} MB there."
        ) from error


def _save_timing(digest: str, timing: TimingFile, config: Any, emit: Emit) -> None:
    try:
        timing.update(digest, lambda present: compat.merged_timing_cache(config, present))
    except OSError as error:
        emit("note", text=f"{timing.path}: the timing cache could not be saved ({error.strerror or error}).")
    else:
        emit("timing_cache")


def _read(job: Job, builder: Any, log: Any) -> Network:
    network = compat.new_network(builder)
    parser, complaints = compat.parse(network, job.source, log)
    if complaints:
        raise EngineError(
            f"{job.source}: TensorRT {compat.VERSION} cannot read the graph: {complaints[0]}. "
            f"Export the bundle again; if that does not help, use another TensorRT."
        )
    compat.use_linear_formats(network)
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    return Network(network, parser, {tensor.name: _axes(job, tensor) for tensor in tensors})


def _axes(job: Job, tensor: Any) -> tuple[str, ...]:
    """Sizes and, where dynamic, the letters that the ONNX file gives the axes."""
    axes = tuple(
        str(size) if size >= 0 else str(tensor.get_dimension_name(place)) for place, size in enumerate(tensor.shape)
    )
    if unknown := [axis for axis in axes if not axis.isdigit() and not _known(job, axis)]:
        raise EngineError(
            f"{job.source}: input {tensor.name!r} has the dynamic axis {unknown[0]!r}, whose size is not known. "
            f"Export the bundle again with this version."
        )
    return axes


def _known(job: Job, letter: str) -> bool:
    return all(letter in ranges for ranges in job.profiles.values())


def _chooses(job: Job) -> bool:
    """Whether TensorRT is to choose between float16 and float32."""
    return job.precision == "fp16" and not compat.strongly_typed() and WHOLE not in job.islands


def _config(job: Job, builder: Any, network: Network, emit: Emit) -> Any:
    chooses = _chooses(job)
    config = compat.new_config(
        builder,
        float16=chooses,
        opt_level=job.opt_level,
        workspace=job.workspace or default_workspace(*free_memory(), job.sharing),
        version_compatible=job.version_compatible,
        hardware_compatible=job.hardware_compatible,
        direct_io=job.direct_io,
    )
    if chooses:
        pinned = pin_islands(network.definition, job.islands)
        emit("phase", text=f"a type asked for in {len(pinned)} layers")
    for ranges in job.profiles.values():
        profile = builder.create_optimization_profile()
        for name, axes in network.inputs.items():
            if not all(axis.isdigit() for axis in axes):  # a weight file has one size
                profile.set_shape(name, *_shapes(axes, ranges))
        config.add_optimization_profile(profile)
    compat.watch(config, Phases(lambda fraction, text: emit("progress", fraction=fraction, text=text)))
    return config


def _shapes(axes: tuple[str, ...], ranges: dict[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Smallest, likeliest and largest shape of an input."""
    return [tuple(int(axis) if axis.isdigit() else ranges[axis][kind] for axis in axes) for kind in range(3)]


def _inspect(job: Job, plan: Any, log: Any, emit: Emit) -> LayerCount:
    """Write the inspector's report. It is for people: without it the plan is as good."""
    emit("phase", text="looking at the engine")
    try:
        if (text := compat.inspect(plan, log, job.version_compatible)) is None:
            raise ValueError([NO_REASON, *read_messages(job.log).errors][-1])
        job.inspection.write_text(text, encoding="utf-8")
        return count_layers(text)
    except (RuntimeError, ValueError, OSError) as error:
        emit(
            "note", text=f"{job.graph}: the inspector's report cannot be read ({error}), so its layers are not counted."
        )
        return LayerCount(0, 0)


def _record(job: Job, network: Network, plan: Any, seconds: float, warm: bool) -> PlanRecord:
    data = memoryview(plan)
    return PlanRecord(
        source=Path(job.source).name,
        source_sha256=job.source_sha256,
        weights_sha256=job.weights_sha256,
        plan=job.plan.name,
        bytes=data.nbytes,
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=network.inputs,
        profiles={
            name: {letter: ranges[letter] for letter in sorted(network.letters)}
            for name, ranges in job.profiles.items()
        },
        seconds=round(seconds, 2),
        warm=warm,
        layers=0,
        reformats=0,
        warnings=read_messages(job.log).warnings,
        islands=job.islands if _chooses(job) else (),
        plugins=job.plugins_version,
    )


def _failure(job: Job, errors: Sequence[str]) -> str:
    causes = [error for error in errors if CONSEQUENCE not in error]
    reason = telling(causes) or NO_REASON
    if any(map(NO_MEMORY.search, errors)):
        return (
            f"{job.graph}: the GPU's memory does not suffice to build the engine ({reason}). Build with smaller "
            f"--max_voxels, --max_point_tokens, --max_length or --max_batch, or end other programs that use the GPU."
        )
    return f"{job.graph}: TensorRT {compat.VERSION} could not build the engine: {reason}."
