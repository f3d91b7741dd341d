"""The builder of the fake: it checks what the real one would refuse, and writes a plan that holds the ONNX graph."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fake_device import device

from tensorrt import _plan, _plugins
from tensorrt._common import ENUMS, MAJOR, VERSION, Dims, Logged, Native, check_logger, native
from tensorrt._network import INetworkDefinition

BuilderFlag = ENUMS["BuilderFlag"]
NULL = "pybind11::init(): factory function returned nullptr"
PRECISIONS = ("FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS")


@native
class IHostMemory(bytes, Native):  # type: ignore[misc]
    """A buffer: memoryview(it), bytes(it), file.write(it); neither length nor items, as the real one."""

    dtype: Any = None
    nbytes = property(lambda self: memoryview(self).nbytes)

    def __len__(self) -> int:
        raise TypeError("object of type 'tensorrt.IHostMemory' has no len()")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("'tensorrt.IHostMemory' object is not subscriptable")


@native
class IOptimizationProfile(Native):
    extra_memory_target: Any = 1.0

    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        shapes = [tuple(int(size) for size in shape) for shape in (min, opt, max)]
        if len({len(shape) for shape in shapes}) != 1 or any(
            not 0 <= low <= likely <= high for low, likely, high in zip(*shapes, strict=True)
        ):
            raise RuntimeError(f"Shape provided for {input} is inconsistent: {shapes}")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[Dims]:
        return [Dims(shape) for shape in self._shapes.get(input, [])]

    def __bool__(self) -> bool:
        return bool(self._shapes)


@native
class ITimingCache(Native):
    def __init__(self, version: str = VERSION, known: Sequence[str] = ()) -> None:
        self._version, self._known = version, set(known)

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._version != self._version and not ignore_mismatch:
            return False
        self._known |= input_cache._known
        return True

    def reset(self) -> bool:
        self._known.clear()
        return True

    def serialize(self) -> IHostMemory:
        if device.fault("timing_cache"):
            os.abort()
        return IHostMemory(json.dumps({"version": self._version, "known": sorted(self._known)}).encode())


@native
class IBuilderConfig(Logged):
    flags: Any = 0
    builder_optimization_level: Any = 3
    hardware_compatibility_level: Any = ENUMS["HardwareCompatibilityLevel"].NONE
    profiling_verbosity: Any = ENUMS["ProfilingVerbosity"].LAYER_NAMES_ONLY
    max_aux_streams: Any = -1
    avg_timing_iterations: Any = 1
    progress_monitor: Any = None

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._profiles: list[IOptimizationProfile] = []
        self._preview: set[str] = set()
        self._limits = {ENUMS["MemoryPoolType"].WORKSPACE: device.memory}
        self._cache: ITimingCache | None = None
        self.set_flag(BuilderFlag.TF32)

    num_optimization_profiles = property(lambda self: len(self._profiles))

    def set_flag(self, flag: Any) -> None:
        self.flags |= 1 << int(BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self.flags &= ~(1 << int(BuilderFlag(flag)))

    def get_flag(self, flag: Any) -> bool:
        return bool(self.flags >> int(BuilderFlag(flag)) & 1)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        name = ENUMS["PreviewFeature"](feature).name
        self._preview = self._preview | {name} if enable else self._preview - {name}

    def get_preview_feature(self, feature: Any) -> bool:
        return ENUMS["PreviewFeature"](feature).name in self._preview

    def _has(self, name: str) -> bool:
        flag = BuilderFlag.__members__.get(name)
        return flag is not None and self.get_flag(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if not 0 < int(pool_size) <= device.memory:
            self._fail(f"setMemoryPoolLimit: {pool_size} is not in the range of this device")
        self._limits[pool] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._limits.get(pool, 0)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        data = bytes(serialized_timing_cache)
        try:
            facts = json.loads(data) if data else {"version": VERSION, "known": []}
            return ITimingCache(facts["version"], facts["known"])
        except (ValueError, KeyError, TypeError):
            self._fail("createTimingCache: the serialized timing cache is corrupted")
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not isinstance(cache, ITimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if cache._version != VERSION and not ignore_mismatch:
            self._log("WARNING", f"The timing cache is of TensorRT {cache._version}, this is {VERSION}")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


@native
class Builder(Logged):
    max_threads: Any = 1
    logger = property(lambda self: self._logger)

    def __init__(self, logger: Any) -> None:
        check_logger(logger)
        self._logger = logger
        if not device.gpus:
            self._fail("CUDA initialization failure with error: 100")
            raise TypeError(NULL)

    platform_has_fast_fp16 = platform_has_tf32 = platform_has_fast_int8 = True

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(self, int(flags))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if device.fault("cublaslt", Path(network._source).name):
            self._log("ERROR", _plugins.NODE_FAILS)
            self._fail("Could not find any implementation for node logits:SpatialLMPrefill.")
            return None
        fault = _fault(network, config)
        if fault is not None:
            self._fail(fault)
            return None
        if not _progress(config):
            self._fail("The build was cancelled by the progress monitor")
            return None
        facts = _facts(network, config)
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode() + network._model["model.onnx"]).hexdigest()
        if config._cache is not None and not config._has("DISABLE_TIMING_CACHE"):
            config._cache._known.add(key)
        self._log("INFO", "Total Host Persistent Memory: 0")
        return IHostMemory(_plan.pack(facts, network._model))


def _fault(network: INetworkDefinition, config: IBuilderConfig) -> str | None:
    """Why this cannot be built."""
    source = Path(network._source).name
    if not network._layers:
        return "Network has no layers"
    if device.fault("build", source) or (config._has("OBEY_PRECISION_CONSTRAINTS") and device.fault("obey", source)):
        first, last = network._layers[0].name, network._layers[-1].name
        return f"Could not find any implementation for node {{ForeignNode[{first}...{last}]}}."
    if MAJOR >= 10 and not network._flag("STRONGLY_TYPED") and MAJOR < 11:
        return "this project builds strongly typed networks only"
    if MAJOR >= 10 and (wrong := [name for name in PRECISIONS if config._has(name)]):
        return f"{wrong[0]} must not be set for a strongly typed network"
    if config._has("FP16") and len({"OBEY", "PREFER"} & {n.split("_")[0] for n in PRECISIONS if config._has(n)}) == 2:
        return "OBEY_PRECISION_CONSTRAINTS and PREFER_PRECISION_CONSTRAINTS exclude each other"
    return _profile_fault(network, config)


def _profile_fault(network: INetworkDefinition, config: IBuilderConfig) -> str | None:
    dynamic = {tensor.name: list(tensor.shape) for tensor in network._inputs if -1 in list(tensor.shape)}
    if dynamic and not config._profiles:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for profile in config._profiles:
        if missing := dynamic.keys() - profile._shapes.keys():
            return f"{min(missing)}: dynamic input is missing dimensions in profile 0."
        for tensor in network._inputs:
            for shape in profile._shapes.get(tensor.name, []):
                sizes = list(tensor.shape)
                if len(shape) != len(sizes) or any(a not in (-1, b) for a, b in zip(sizes, shape, strict=True)):
                    return f"{tensor.name}: profile 0 has {shape}, but the network {sizes}"
    return None


def _facts(network: INetworkDefinition, config: IBuilderConfig) -> dict[str, Any]:
    """What the plan keeps beside the graph."""
    gpu = device.gpus[device.current]
    linear = 1 << int(ENUMS["TensorFormat"].LINEAR)
    border = network._inputs + network._outputs
    return {
        "version": VERSION,
        "gpu": gpu.name,
        "capability": [gpu.major, gpu.minor],
        "source": Path(network._source).name,
        "preview": sorted(config._preview),
        "profiles": [profile._shapes for profile in config._profiles],
        "version_compatible": config._has("VERSION_COMPATIBLE"),
        "hardware_compatible": config.hardware_compatibility_level.name,
        "verbosity": config.profiling_verbosity.name,
        "flags": [flag.name for flag in BuilderFlag if config.get_flag(flag)],
        "opt_level": config.builder_optimization_level,
        "pinned": sum(layer.precision_is_set for layer in network._layers) if MAJOR < 11 else 0,
        "layers": [layer.name for layer in network._layers],
        "reformats": [tensor.name for tensor in border if tensor.allowed_formats != linear],
        "plugins": network._plugins,
        "types": {tensor.name: tensor.dtype.name for tensor in border},
    }


def _progress(config: IBuilderConfig) -> bool:
    """Tell the progress monitor of three nested phases. False: it cancelled."""
    monitor = getattr(config, "progress_monitor", None)
    if monitor is None:
        return True
    phases = [("Building Engine", None, 2), ("Tactic Selection", "Building Engine", 4)]
    for name, parent, steps in phases:
        monitor.phase_start(name, parent, steps)
    going = all(monitor.step_complete("Tactic Selection", step) for step in range(4))
    monitor.phase_finish("Tactic Selection")
    going = going and all(monitor.step_complete("Building Engine", step) for step in range(2))
    monitor.phase_finish("Building Engine")
    return going


@native
class IProgressMonitor(Native):
    """To derive from."""

    _ready = False

    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')
