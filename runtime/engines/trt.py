"""The TensorRT back end: compiled plans on one stream, all working in one piece of scratch memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tensorrt as trt

from plugins.library import BUILD, library_path
from runtime.bundle import WEIGHTS, Bundle
from runtime.engines import trt_compat as compat
from runtime.engines.contract import Engine, Tensor
from runtime.engines.cuda.gpu import read_gpu
from runtime.engines.cuda.library import OutOfDeviceMemory
from runtime.engines.cuda.memory import CudaMemory, DeviceTensor
from runtime.engines.cuda.steps import CudaSteps
from runtime.engines.plans import Plans, find_plans, source_of
from runtime.engines.record import rebuild
from runtime.engines.trt_engine import TrtEngine, input_shapes
from runtime.engines.trt_segments import SegmentedEngine
from runtime.engines.trt_views import view_of
from runtime.engines.trt_weights import DeviceWeights
from runtime.errors import EngineError


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
        """At least so many bytes; contexts notice a new address when they run next. Raises OutOfDeviceMemory."""
        if bytes <= (had := self.bytes):
            return
        self._tensor = self._memory.empty((1,), "uint8")  # first let go of the smaller piece
        self._memory.pool.release()
        try:
            self._tensor = self._memory.empty((bytes,), "uint8")
        except OutOfDeviceMemory:
            self._tensor = self._memory.empty((had,), "uint8")  # engines that are loaded go on
            raise


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
        self._weights = DeviceWeights(self, verify=verify)
        self._engines: list[TrtEngine | SegmentedEngine] = []
        self._plans: dict[str, Any] = {}  # by digest

    def load(self, bundle: Bundle, graph: str) -> Engine:
        """Deserialize a plan and, for decode, try one step. Raises EngineError with what to do."""
        plans = find_plans(bundle, self.gpu, compat.version())
        parts = [self._part(bundle, graph, plan, plans) for plan in plans.record.plans_of(graph)]
        loaded = parts[0] if len(parts) == 1 else SegmentedEngine(graph, parts, self)
        self._engines.append(loaded)
        if graph == "decode":
            self._try(loaded, plans)
        return loaded

    def _part(self, bundle: Bundle, graph: str, plan: str, plans: Plans) -> TrtEngine:
        view, engine, record = view_of(plans.record.language_model, graph, plan), self._plan(plans, plan), plans.record
        held: dict[str, DeviceTensor] = {}
        if (shape := input_shapes(engine).get(WEIGHTS)) is not None:
            source, dtype = source_of(plan, plugins=True), compat.dtype_name(engine.get_tensor_dtype(WEIGHTS))
            held[WEIGHTS] = self._weights.of(bundle, source, dtype, shape[0])
        return TrtEngine(graph, view, engine, record.plans[plan], self, held)

    def _plan(self, plans: Plans, name: str) -> Any:
        """A deserialized plan, one for all its views. Raises EngineError."""
        path, digest = plans.folder / plans.record.plans[name].plan, plans.record.plans[name].sha256
        if digest not in self._plans:  # not by path: engines may be built anew
            plans.check(name, verify=self._verify)
            if plans.record.plans[name].plugins:
                self._load_plugins(path)
            data = np.memmap(path, np.uint8, mode="r")  # not read as a whole: a plan is as large as the weights
            engine = compat.deserialize(self._runtime, data, host_code=plans.record.version_compatible)
            if engine is None:
                self._refuse(path, plans)
            plans.match(name, input_shapes(engine), int(engine.num_optimization_profiles))
            self.steps.graphs.clear()  # scratch may move
            self.scratch.reserve(compat.scratch_bytes(engine))
            self._plans[digest] = engine
        return self._plans[digest]

    def _load_plugins(self, plan: Path) -> None:
        library = library_path()
        if not compat.load_plugins(str(library.resolve())):
            raise EngineError(
                f"{plan}: needs the plugin library {library}, which TensorRT {compat.version()} does not take"
                f"{self.messages.last()}. Build it anew: {BUILD}"
            )

    def _refuse(self, path: Path, plans: Plans) -> NoReturn:
        said = self.messages.last()
        if "memory" in said.lower():
            raise OutOfDeviceMemory(
                f"{path}: the GPU has not the memory to load it{said}. End other programs that use the GPU."
            )
        raise EngineError(f"{path}: TensorRT {compat.version()} cannot load it{said}. {rebuild(plans.folder)}")

    def scatter_rows(self, source: Tensor, target: Tensor, starts: Sequence[int | None]) -> None:
        values = [-1 if start is None else start for start in starts]
        self.steps.append_rows(source, target, self.upload(np.asarray(values, np.int32)))

    def _unload(self) -> None:
        for engine in self._engines:
            engine.close()
        self._engines.clear()
        self._plans.clear()
        self._weights.close()
        self.steps.close()
        del self.scratch, self._runtime

    def _try(self, engine: TrtEngine | SegmentedEngine, plans: Plans) -> None:
        try:
            engine.try_once()
        except OutOfDeviceMemory:  # says what to do itself: building the same again would not help
            raise
        except EngineError as error:
            raise EngineError(
                f"{plans.folder}: a first decode step failed on {self.gpu.name}: {error} {rebuild(plans.folder)}"
            ) from error
