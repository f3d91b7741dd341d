"""The TensorRT back end: compiled plans on one stream, all working in one piece of scratch memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorrt as trt

from runtime.bundle import Bundle
from runtime.engines import trt_compat as compat
from runtime.engines.contract import Engine, Tensor, TensorSpec, check_feeds
from runtime.engines.cuda.gpu import read_gpu
from runtime.engines.cuda.memory import CudaMemory, DeviceTensor, on_device
from runtime.engines.cuda.steps import CudaSteps
from runtime.engines.plans import Plans, find_plans
from runtime.engines.record import PlanRecord, rebuild
from runtime.errors import EngineError

OPTIONS = {"B": "--max_batch", "P": "--max_point_tokens", "S": "--max_length", "M": "--max_length"}  # others: voxels
Shapes = tuple[tuple[int, ...], ...]


class Scratch:
    """Working memory that all engines share: they run one after another. It grows as engines are loaded."""

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory
        self._tensor = memory.empty((1,), "uint8")

    @property
    def address(self) -> int:
        return self._tensor.address

    @property
    def bytes(self) -> int:
        return self._tensor.bytes

    def reserve(self, bytes: int) -> None:
        """At least so many bytes; contexts notice a new address when they run next."""
        if bytes > self.bytes:
            self._tensor = self._memory.empty((1,), "uint8")  # first let go of the smaller piece
            self._memory.pool.release()
            self._tensor = self._memory.empty((bytes,), "uint8")


class TrtEngine:
    """A plan with its execution contexts.

    A captured graph is only good for the context it was captured with, so where graphs are captured (decode) each set
    of shapes has its own; the others change the shapes of one.
    """

    def __init__(
        self, name: str, engine: Any, record: PlanRecord, backend: TrtBackend, *, context_by_shape: bool
    ) -> None:
        self.name = name
        self._engine, self._backend, self._context_by_shape = engine, backend, context_by_shape
        self._contexts: dict[Shapes | None, tuple[Any, int]] = {}  # with the scratch address each was given
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = {name: self._spec(name, record.inputs.get(name)) for name in names if is_input[name]}
        self.outputs = {name: self._spec(name, None) for name in names if not is_input[name]}
        self._ranges = {name: _range(engine, name) for name in self.inputs}
        self.limits = self._limits()

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        given = dict(outputs or {})
        check_feeds(self, feeds, given)
        self._check_profile(feeds)
        context = self._context(feeds)
        results = {name: given.get(name) or self._fresh(context, name) for name in self.outputs}
        self._check_given(context, given)
        for name, tensor in (*feeds.items(), *results.items()):
            context.set_tensor_address(name, on_device(tensor).address)
        if not context.execute_async_v3(self._backend.stream):
            raise EngineError(f"{self.name}: TensorRT could not run it{self._backend.messages.last()}.")
        return results

    def try_once(self) -> None:
        """Run on zeros of the smallest shapes, so that a kernel missing on this GPU shows now. Raises EngineError."""
        feeds = {name: self._backend.zeros(self._ranges[name][0], spec.dtype) for name, spec in self.inputs.items()}
        self.run(feeds)
        self._backend.synchronize()

    def close(self) -> None:
        self._contexts.clear()
        self._engine = None

    def _spec(self, name: str, axes: Sequence[str] | None) -> TensorSpec:
        shape = tuple(self._engine.get_tensor_shape(name))
        letters = axes or [f"{name}.{axis}" for axis in range(len(shape))]
        sizes = tuple(letter if size < 0 else int(size) for letter, size in zip(letters, shape, strict=True))
        return TensorSpec(name, compat.dtype_name(self._engine.get_tensor_dtype(name)), sizes)

    def _limits(self) -> dict[str, int]:
        return {
            axis: largest
            for name, spec in self.inputs.items()
            for axis, largest in zip(spec.shape, self._ranges[name][1], strict=True)
            if isinstance(axis, str)
        }

    def _check_profile(self, feeds: Mapping[str, Tensor]) -> None:
        for name, tensor in feeds.items():
            for axis, size, low, high in zip(self.inputs[name].shape, tensor.shape, *self._ranges[name], strict=True):
                if not low <= size <= high:
                    option = OPTIONS.get(str(axis), "--max_voxels")
                    raise EngineError(
                        f"{self.name}: {name!r} is {list(tensor.shape)}, but this engine was built for {low} to {high} "
                        f"along {axis}. Crop the scene, or build the engines again with a larger {option}."
                    )

    def _check_given(self, context: Any, given: Mapping[str, Tensor]) -> None:
        for name, tensor in given.items():
            if (shape := tuple(context.get_tensor_shape(name))) != tensor.shape:
                raise EngineError(f"{self.name}: {name!r} has room for {list(tensor.shape)}, but is {list(shape)}.")

    def _context(self, feeds: Mapping[str, Tensor]) -> Any:
        """A context with the shapes of the feeds and the scratch memory as it is now."""
        shapes = tuple(feeds[name].shape for name in self.inputs)
        key = shapes if self._context_by_shape else None
        scratch = self._backend.scratch
        if key not in self._contexts or self._contexts[key][1] != scratch.address:
            context = self._contexts[key][0] if key in self._contexts else compat.create_context(self._engine)
            if context is None:
                raise EngineError(f"{self.name}: TensorRT made no context{self._backend.messages.last()}.")
            compat.set_scratch(context, scratch.address, scratch.bytes)
            self._contexts[key] = context, scratch.address
        context = self._contexts[key][0]
        for name, shape in zip(self.inputs, shapes, strict=True):
            if not context.set_input_shape(name, shape):
                raise EngineError(f"{self.name}: TensorRT refuses {list(shape)} for {name!r}.")
        return context

    def _fresh(self, context: Any, name: str) -> DeviceTensor:
        return self._backend.empty(tuple(context.get_tensor_shape(name)), self.outputs[name].dtype)


class TrtBackend(CudaMemory):
    """Plans of one TensorRT on one GPU."""

    name = "tensorrt"

    def __init__(self, device: int = 0, *, cuda_graphs: bool = True, verify: bool = True) -> None:
        """Raises EngineError where there is no such GPU."""
        self.gpu = read_gpu(device)
        super().__init__(device)
        self.steps = CudaSteps(self, captures=cuda_graphs)
        self.scratch = Scratch(self)
        self.messages = compat.Messages()
        self._runtime = trt.Runtime(self.messages)
        self._verify = verify
        self._engines: list[TrtEngine] = []
        self._lock = threading.RLock()

    def load(self, bundle: Bundle, graph: str) -> Engine:
        """Deserialize a plan and, for decode, try one step. Raises EngineError with what to do."""
        plans = find_plans(bundle, self.gpu, compat.version())
        record = plans.record.plans[graph]
        path = plans.check(graph, verify=self._verify)
        data = np.memmap(path, np.uint8, mode="r")  # not read as a whole: a plan is as large as the weights
        host_code = plans.record.version_compatible
        engine = compat.deserialize(self._runtime, data, host_code=host_code)
        if engine is None:
            raise EngineError(
                f"{path}: TensorRT {compat.version()} cannot load it{self.messages.last()}. {rebuild(plans.folder)}"
            )
        loaded = TrtEngine(graph, engine, record, self, context_by_shape=graph == "decode")
        self.scratch.reserve(compat.scratch_bytes(engine))
        self.steps.graphs.clear()  # scratch may have moved
        self._engines.append(loaded)
        if graph == "decode":
            self._try(loaded, plans)
        return loaded

    def scatter_rows(self, source: Tensor, target: Tensor, starts: Sequence[int | None]) -> None:
        values = [-1 if start is None else start for start in starts]
        self.steps.append_rows(source, target, self.upload(np.asarray(values, np.int32)))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Contexts, scratch memory and stream serve one pass at a time."""
        with self._lock:
            self.use()
            yield

    def close(self) -> None:
        if self.closed:
            return
        self.use()
        self.synchronize()
        for engine in self._engines:
            engine.close()
        self._engines.clear()
        self.steps.close()
        del self.scratch, self._runtime
        super().close()

    def _try(self, engine: TrtEngine, plans: Plans) -> None:
        try:
            engine.try_once()
        except EngineError as error:
            raise EngineError(
                f"{plans.folder}: a first decode step failed on {self.gpu.name} ({error}). {rebuild(plans.folder)}"
            ) from error


def _range(engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest shape of an input in the only profile."""
    low, _, high = engine.get_tensor_profile_shape(name, 0)
    return tuple(low), tuple(high)
