"""Engines and contexts of the fake: the graph of a plan runs through ONNX Runtime, in the fake GPU's memory."""

from __future__ import annotations

import json
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_streams
import numpy as np
from fake_device import POISON, Span, device

from tensorrt import _onnx, _plan, _plugins
from tensorrt._builder import NULL, IHostMemory
from tensorrt._common import (
    ENUMS,
    MAJOR,
    NUMPY,
    VERSION,
    DataType,
    Dims,
    Logged,
    Native,
    check_logger,
    item_bytes,
    native,
)

TensorIOMode = ENUMS["TensorIOMode"]
SCRATCH = 16384  # bytes of activations of every engine


@native
class Runtime(Logged):
    engine_host_code_allowed: Any = False
    max_threads: Any = 1
    logger = property(lambda self: self._logger)

    def __init__(self, logger: Any) -> None:
        check_logger(logger)
        self._logger = logger
        if not device.gpus:
            self._fail("CUDA initialization failure with error: 100")
            raise TypeError(NULL)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        data = bytes(memoryview(serialized_engine))
        found = _plan.unpack(data)
        fault = "Serialization assertion failed: the plan is damaged" if found is None else self._foreign(found[0])
        if found is not None and device.fault("deserialize", found[0]["source"]):
            fault = "Deserialization failed"
        weights = None if fault else device.allocate(len(data), device.current)
        if found is None or weights is None:
            self._fail(f"IRuntime::deserializeCudaEngine: Error Code 1: {fault or 'out of memory'}")
            return None
        engine = ICudaEngine(self._logger, data, *found)
        weakref.finalize(engine, device.free, weights.address, False)
        return engine

    def _foreign(self, facts: dict[str, Any]) -> str | None:
        """Why a plan of another place cannot be used here."""
        gpu = device.gpus[device.current]
        if facts["version_compatible"] and not self.engine_host_code_allowed:
            return "the plan holds host code, which is not allowed (engine_host_code_allowed)"
        if unknown := [name for name in facts["plugins"] if not _plugins.has(name)]:
            return f"Cannot deserialize plugin since corresponding IPluginCreator not found: {unknown[0]}"
        if facts["version"] != VERSION and not facts["version_compatible"]:
            return f"the plan is of version {facts['version']}, this library is {VERSION}"
        same = facts["capability"] == [gpu.major, gpu.minor]
        if not same and not (facts["hardware_compatible"] == "AMPERE_PLUS" and gpu.major >= 8):
            return f"the plan is for compute capability {facts['capability']}"
        return None


@native
class ICudaEngine(Logged):
    name: Any = "Unnamed Network 0"
    refittable: Any = False
    has_implicit_batch_dimension: Any = False
    device_memory_size: Any = SCRATCH
    device_memory_size_v2: Any = SCRATCH

    def __init__(self, logger: Any, data: bytes, facts: dict[str, Any], files: dict[str, bytes]) -> None:
        self._logger, self._data, self._facts, self._device = logger, data, facts, device.current
        self._graph = _onnx.read_graph(files["model.onnx"])
        self._values = {value.name: value for value in self._graph.inputs + self._graph.outputs}
        self._session = _session(files, bool(facts["plugins"]))
        self._claims: dict[int, weakref.ref[IExecutionContext]] = {}  # profile -> the context that has it

    def _claim(self, context: IExecutionContext, profile: int) -> bool:
        """Take a profile for a context. Before version 10 each has one, unless sharing was asked for at the build."""
        if MAJOR >= 10 or "PROFILE_SHARING_0806" in self._facts["preview"]:
            return True
        holder = self._claims.get(profile)
        if holder is not None and holder() not in (None, context):
            return False
        self._claims = {index: ref for index, ref in self._claims.items() if ref() not in (None, context)}
        self._claims[profile] = weakref.ref(context)
        return True

    num_optimization_profiles = property(lambda self: len(self._facts["profiles"]))
    num_io_tensors = property(lambda self: len(self._values))
    num_layers = property(lambda self: len(_layers(self)))

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> Any:
        if name not in self._values:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if self._values[name] in self._graph.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType.__members__[self._facts["types"][name]]

    def get_tensor_shape(self, name: str) -> Dims:
        """An axis for which all profiles have one size has that size, as 8.6.0 was seen to say."""
        ranges = [profile[name] for profile in self._facts["profiles"] if name in profile]
        axes = self._values[name].axes
        sizes = [{int(shape[place]) for shapes in ranges for shape in shapes} for place in range(len(axes))]
        known = [next(iter(found)) if len(found) == 1 else -1 for found in sizes]
        return Dims([size if isinstance(axis, str) else axis for axis, size in zip(axes, known, strict=True)])

    def get_tensor_location(self, name: str) -> Any:
        return ENUMS["TensorLocation"].DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return ENUMS["TensorFormat"].LINEAR

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if self.get_tensor_mode(name) != TensorIOMode.INPUT:
            self._fail(f"getProfileShape: {name} is no input")
            return []
        fixed = [list(self.get_tensor_shape(name))] * 3
        return [Dims(shape) for shape in self._facts["profiles"][profile_index].get(name, fixed)]

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def create_execution_context_without_device_memory(self) -> IExecutionContext | None:
        return _context(self, own_memory=False)

    if MAJOR < 10:

        def create_execution_context(self) -> IExecutionContext | None:
            return _context(self, own_memory=True)

    else:

        def create_execution_context(self, strategy: Any = None) -> IExecutionContext | None:
            kind = ENUMS["ExecutionContextAllocationStrategy"]
            return _context(self, own_memory=kind(strategy or kind.STATIC) != kind.USER_MANAGED)


def _session(files: dict[str, bytes], plugins: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        path = str(Path(folder) / "model.onnx")
        if plugins:
            return _plugins.session(path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _context(engine: ICudaEngine, own_memory: bool) -> IExecutionContext | None:
    scratch = device.allocate(SCRATCH, engine._device) if own_memory else None
    if device.fault("context", engine._facts["source"]) or (own_memory and scratch is None):
        engine._fail("IExecutionContext: out of memory")
        return None
    context = IExecutionContext(engine)
    if scratch is not None:
        context._scratch, context._scratch_bytes = scratch.address, SCRATCH
        weakref.finalize(context, device.free, scratch.address, False)
    return context


@native
class IExecutionContext(Logged):
    name: Any = ""
    all_shape_inputs_specified: Any = True

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._logger, self._busy = engine, engine._logger, threading.Lock()
        self._scratch, self._scratch_bytes = 0, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._settled = False  # has run since a shape or the scratch memory changed
        self._profile = 0 if engine._claim(self, 0) else -1

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        fake_streams.stream_of(stream_handle)
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._fail(f"setOptimizationProfileAsync: there is no profile {profile_index}")
            return False
        if profile_index != self._profile and not self._engine._claim(self, profile_index):
            self._fail(f"setOptimizationProfileAsync: profile {profile_index} is used by another context")
            return False
        self._profile, self._shapes, self._settled = profile_index, {}, False
        return True

    engine = property(lambda self: self._engine)

    @property
    def device_memory(self) -> int:
        raise AttributeError("unreadable attribute")

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self._scratch, self._scratch_bytes, self._settled = int(memory), SCRATCH, False

    def set_device_memory(self, memory: int, size: int) -> None:
        if int(size) < SCRATCH:
            self._fail(f"setDeviceMemory: {size} bytes, but {SCRATCH} are needed")
            return
        self._scratch, self._scratch_bytes, self._settled = int(memory), int(size), False

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if not isinstance(shape, (tuple, list, Dims)):
            raise TypeError("set_input_shape(): incompatible function arguments")
        sizes = tuple(int(size) for size in shape)
        if self._profile < 0:
            return False
        limits = [tuple(limit) for limit in self._engine.get_tensor_profile_shape(name, self._profile)]
        if not limits or len(limits[0]) != len(sizes):
            return False
        if any(not low <= size <= high for low, size, high in zip(limits[0], sizes, limits[2], strict=True)):
            self._fail(f"setInputShape: {name} {sizes} is not in {limits[0]} .. {limits[2]} of profile {self._profile}")
            return False
        self._settled &= self._shapes.get(name) == sizes
        self._shapes[name] = sizes
        return True

    def _sizes(self) -> dict[str, int]:
        """Sizes of the letters. Raises RuntimeError where two inputs disagree."""
        sizes: dict[str, int] = {}
        for value in self._engine._graph.inputs:
            for axis, size in zip(value.axes, self._shapes.get(value.name, ()), strict=False):
                if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                    self._fail(f"inputs disagree about axis {axis}: {sizes[axis]} and {size} ({value.name})")
                    raise RuntimeError("infer_shapes error code: -1")
        return sizes

    def _missing(self) -> list[str]:
        inputs = self._engine._graph.inputs
        return [v.name for v in inputs if v.name not in self._shapes and any(isinstance(a, str) for a in v.axes)]

    def infer_shapes(self) -> list[str]:
        self._sizes()
        return self._missing()

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._shapes:
            return Dims(self._shapes[name])
        sizes = {} if self._missing() else self._sizes()
        return Dims(
            [sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in self._engine._values[name].axes]
        )

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._values:
            self._fail(f"setTensorAddress: {name} is no input or output")
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = fake_streams.stream_of(stream_handle)
        fault = self._unready(stream)
        if fault is not None or stream is None:
            self._fail(f"IExecutionContext::enqueueV3: Error Code 3: {fault}")
            if stream is not None:
                fake_streams.spoil(stream)
            return False
        spans, scratch = self._spans(), device.span(self._scratch, self._scratch_bytes)
        shapes = {name: tuple(self.get_tensor_shape(name)) for name in self._engine._values}
        stream.submit(lambda: self._run(spans, shapes, scratch))
        self._settled = self._settled or stream.capture is None
        return True

    def _unready(self, stream: Any) -> str | None:
        """Why this cannot run now."""
        source = self._engine._facts["source"]
        if stream is None or stream.device != self._engine._device:
            return "the stream is not of the engine's device"
        if device.fault("execute", source) or (stream.capture is not None and device.fault("capture", source)):
            return "CUDA launch failed"
        if device.fault("cublaslt", source):
            self._log("ERROR", _plugins.NODE_FAILS)
            return "Assertion status == kSTATUS_SUCCESS failed"
        if self._profile < 0:
            return "Assertion mOptimizationProfile >= 0 failed"
        if missing := self._missing():
            return f"the shape of {missing[0]} is not set"
        if unbound := [name for name in self._engine._values if not self._addresses.get(name)]:
            return f"the address of {unbound[0]} is not set"
        if not self._scratch:
            return "no device memory was given"
        if stream.capture is not None and not self._settled:
            return "capture before the first run with these shapes"
        try:
            self._sizes()
        except RuntimeError as error:
            return str(error)
        return None

    def _spans(self) -> dict[str, Span]:
        """The memory of each tensor, checked: it is there, on this GPU, and large enough."""
        spans = {}
        for name, address in self._addresses.items():
            size = int(np.prod(tuple(self.get_tensor_shape(name)), dtype=np.int64))
            spans[name] = device.span(address, size * item_bytes(self._engine.get_tensor_dtype(name)))
        return spans

    def _run(self, spans: dict[str, Span], shapes: dict[str, tuple[int, ...]], scratch: Span) -> None:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("one execution context is used by two threads at once")
        try:
            engine, arrays = self._engine, {}
            for name, span in spans.items():
                dtype = NUMPY[engine.get_tensor_dtype(name).name]
                arrays[name] = span.array().view(dtype).reshape(shapes[name])
            feeds = {value.name: _widened(arrays[value.name], value.type) for value in engine._graph.inputs}
            names = [value.name for value in engine._graph.outputs]
            results = engine._session.run(names, feeds)
            scratch.array().fill(POISON)  # what shared this memory is gone
            for name, result in zip(names, results, strict=True):
                arrays[name][...] = result
            device.counts["execute"] += 1
        finally:
            self._busy.release()


def _widened(array: np.ndarray[Any, Any], onnx_type: int) -> np.ndarray[Any, Any]:
    """A copy; 64-bit integers where the graph has them and version 8 binds 32."""
    return array.astype(np.int64) if onnx_type == _onnx.INT64 else array.copy()


@native
class EngineInspector(Native):
    execution_context: Any = None

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        if format != ENUMS["LayerInformationFormat"].JSON:
            return "\n".join(layer["Name"] for layer in _layers(self._engine))
        detailed = self._engine._facts["verbosity"] == "DETAILED"
        layers = [layer if detailed else layer["Name"] for layer in _layers(self._engine)]
        border = "I/O Tensors" if MAJOR > 10 else "Bindings"
        return json.dumps({"Layers": layers, border: list(self._engine._values)})


def _layers(engine: ICudaEngine) -> list[dict[str, Any]]:
    """One compiled node for all, and a copy for each tensor at the border whose format was left open."""
    names = engine._facts["layers"]
    node = f"{{ForeignNode[{names[0]}...{names[-1]}]}}"
    inputs = {value.name for value in engine._graph.inputs}
    copies = [
        {"Name": f"Reformatting CopyNode for {'Input' if name in inputs else 'Output'} Tensor {index} to {node}",
         "LayerType": "Reformat", "Inputs": [_described(engine, name)], "Outputs": [_described(engine, name)]}
        for index, name in enumerate(engine._facts["reformats"])
    ]  # fmt: skip
    body = {"Name": node, "LayerType": "Myelin", "Inputs": [_described(engine, name) for name in inputs],
            "Outputs": [_described(engine, value.name) for value in engine._graph.outputs]}  # fmt: skip
    return [*copies, body]


def _described(engine: ICudaEngine, name: str) -> dict[str, Any]:
    shape, kind = list(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name).name
    if MAJOR > 10:
        return {"Name": name, "Dimensions": shape, "Format": "Row major linear", "DataType": kind}
    return {"Name": name, "Location": "Device", "Dimensions": shape, "Format/Datatype": f"Row major linear {kind}"}
