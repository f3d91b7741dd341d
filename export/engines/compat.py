"""TensorRT 8.6 to 11 as the build uses it. What a version may lack is looked for here and nowhere else in `export`."""

from __future__ import annotations

import os
from typing import Any

import tensorrt as trt

from export.engines.messages import one_line
from export.engines.phases import Phases

VERSION = str(trt.__version__)
VERBOSE_LOG = "SPATIALLM_TENSORRT_LOG"  # this environment variable: "verbose"


def strongly_typed() -> bool:
    """Whether the graph's own types are binding (version 9 on). Before, TensorRT chooses among those it is allowed."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def new_network(builder: Any) -> Any:
    """An empty network. Flags by name: their numbers changed between versions."""
    kinds, flags = trt.NetworkDefinitionCreationFlag, 0
    if hasattr(kinds, "STRONGLY_TYPED"):
        flags |= 1 << int(kinds.STRONGLY_TYPED)
    if hasattr(kinds, "EXPLICIT_BATCH") and int(VERSION.split(".")[0]) < 10:  # from 10 on there is nothing else
        flags |= 1 << int(kinds.EXPLICIT_BATCH)
    return builder.create_network(flags)


def new_config(
    builder: Any,
    *,
    float16: bool,
    opt_level: int,
    workspace: int,
    version_compatible: bool,
    hardware_compatible: bool,
    direct_io: bool = False,
) -> Any:
    """Settings of a build; `workspace` in bytes. With strong types there are no precision flags."""
    config, flags = builder.create_builder_config(), trt.BuilderFlag
    config.clear_flag(flags.TF32)  # 10 bits of mantissa are not float32
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.builder_optimization_level = opt_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt, "PreviewFeature") and hasattr(trt.PreviewFeature, "PROFILE_SHARING_0806"):
        # Several contexts of one profile, each with its own captured graph; later versions always allow it.
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    if float16 and hasattr(flags, "FP16"):
        config.set_flag(flags.FP16)
        config.set_flag(flags.PREFER_PRECISION_CONSTRAINTS)
    if direct_io and hasattr(flags, "DIRECT_IO"):  # no format is tried at the border beside the one asked for
        config.set_flag(flags.DIRECT_IO)
    if version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return config


def use_linear_formats(network: Any) -> None:
    """Inputs and outputs stay row-major and in the types they were parsed with."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in tensors + [network.get_output(i) for i in range(network.num_outputs)]:
        tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)


def parse(network: Any, source: str, log: Any) -> tuple[Any, list[str]]:
    """Read an ONNX file into a network: the parser, which owns the weights while building, and its complaints."""
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(source):
        return parser, []
    return parser, [_complaint(parser.get_error(i)) for i in range(parser.num_errors)] or ["it gives no reason"]


def _complaint(error: Any) -> str:
    """The parser's words, and the node where it knows one: by its number in the file, from version 10 on by name."""
    name = f" ({error.node_name()})" if hasattr(error, "node_name") else ""
    place = f"node {error.node()}{name}: " if error.node() >= 0 else ""
    return place + one_line(error.desc())


def use_timing_cache(config: Any, data: bytes) -> bool:
    """Start from a serialized timing cache; False where it is of another GPU or version, and an empty one is used."""
    cache = config.create_timing_cache(data)
    if cache is not None and config.set_timing_cache(cache, False):
        return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False


def merged_timing_cache(config: Any, data: bytes) -> bytes:
    """What was measured in this build, together with another serialized cache."""
    cache = config.get_timing_cache()
    if data and (other := config.create_timing_cache(data)) is not None:
        cache.combine(other, False)
    return bytes(memoryview(cache.serialize()))


def watch(config: Any, phases: Phases) -> None:
    """Have the progress of a build reported, where TensorRT can tell it (version 9 on)."""
    if not hasattr(trt, "IProgressMonitor"):
        return

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return True  # go on

    config.progress_monitor = Monitor()


def inspect(plan: Any, log: Any, version_compatible: bool) -> str | None:
    """The inspector's JSON about a serialized engine; None where it cannot be loaded, and the log says why."""
    runtime = trt.Runtime(log)
    if version_compatible:  # such plans carry code of their own
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def new_log() -> Any:
    """TensorRT's own logger, which writes from information upwards to the standard streams, or everything.

    One of ours would be called for each verbose message too, and a build has hundreds of thousands of them. They tell
    what a slow build compiles: which combinations of types are tried for which layers.
    """
    return trt.Logger(trt.Logger.VERBOSE if os.environ.get(VERBOSE_LOG) == "verbose" else trt.Logger.INFO)


def new_builder(log: Any) -> Any:
    return trt.Builder(log)
