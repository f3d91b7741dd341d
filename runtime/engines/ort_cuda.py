"""ONNX Runtime on a GPU: inputs, outputs and the cache stay in device memory, on the stream of our own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime.bundle import Bundle
from runtime.engines.contract import Engine, Tensor
from runtime.engines.cuda.gpu import read_gpu
from runtime.engines.cuda.memory import CudaMemory, DeviceTensor, on_device
from runtime.engines.cuda.steps import CudaSteps
from runtime.engines.ort import OrtEngine, Weights, open_session, session_options
from runtime.errors import EngineError

PROVIDER = "CUDAExecutionProvider"


class CudaPlace:
    """Device memory, as `Place`."""

    kind = "cuda"

    def __init__(self, device: int) -> None:
        self.device = device

    def address(self, tensor: Tensor) -> int:
        return on_device(tensor).address

    def fresh(self, value: Any, dtype: str) -> Tensor:
        return DeviceTensor(int(value.data_ptr()), value.shape(), dtype, value)


class OrtCudaBackend(CudaMemory):
    """The portable graphs under ONNX Runtime's CUDA provider."""

    name = "onnxruntime"

    def __init__(self, device: int = 0) -> None:
        """Raises EngineError where there is no such GPU, or ONNX Runtime was built without CUDA."""
        if PROVIDER not in ort.get_available_providers():
            raise EngineError(
                f"onnxruntime {ort.__version__} is installed without CUDA. For --device cuda install "
                f"onnxruntime-gpu in its place: pip uninstall onnxruntime; pip install '.[onnxruntime-gpu]'"
            )
        self.gpu = read_gpu(device)
        super().__init__(device)
        self.steps = CudaSteps(self, captures=False)  # a session's run is not ours to capture
        self._weights = Weights()
        self._engines: list[OrtEngine] = []

    def load(self, bundle: Bundle, graph: str) -> Engine:
        """Open a session. Raises EngineError when ONNX Runtime refuses the graph or cannot use the GPU."""
        if bundle.manifest.quantization is not None:
            raise EngineError(
                f"{bundle.folder}: quantized bundles run on the CPU. "
                f"Use --device cpu, or export without --quantization."
            )
        options = session_options()
        values = self._weights.add_to(options, bundle, graph)
        settings = {"device_id": str(self.device), "user_compute_stream": str(self.stream), "use_tf32": "0"}
        session = open_session(bundle, graph, options, [(PROVIDER, settings)])
        if PROVIDER not in session.get_providers():  # it falls back to the CPU without a word
            raise EngineError(
                f"onnxruntime {ort.__version__} cannot use the GPU: its CUDA or cuDNN libraries do not load. "
                f"Install the versions it names, or use --device cpu."
            )
        self._engines.append(OrtEngine(graph, session, values, CudaPlace(self.device)))
        return self._engines[-1]

    def scatter_rows(self, source: Tensor, target: Tensor, starts: Sequence[int | None]) -> None:
        values = [-1 if start is None else start for start in starts]
        self.steps.append_rows(source, target, self.upload(np.asarray(values, np.int32)))

    def _unload(self) -> None:
        for engine in self._engines:  # sessions hold the stream and memory of their own
            engine.close()
        self._engines.clear()
        self.steps.close()
