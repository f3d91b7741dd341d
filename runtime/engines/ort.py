"""The ONNX Runtime back end: on the CPU, or on a GPU with everything on one CUDA stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.engines.contract import Engine, Tensor, TensorSpec, check_feeds
from runtime.engines.host import HostMemory, HostTensor, host_array
from runtime.errors import EngineError

FATAL = 4  # log level; errors arrive as exceptions, warnings speak of optimizer details that a user cannot act on
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16: NumPy has no such type to name it by


class Place(Protocol):
    """Where a session's inputs and outputs lie, as ONNX Runtime names it."""

    kind: str  # "cpu" or "cuda"
    device: int

    def address(self, tensor: Tensor) -> int: ...

    def fresh(self, value: Any, dtype: str) -> Tensor:
        """The tensor over an OrtValue that a run has made."""
        ...


class HostPlace:
    """Ordinary memory."""

    kind, device = "cpu", 0

    def address(self, tensor: Tensor) -> int:
        array = host_array(tensor)
        assert array.flags.c_contiguous, "a tensor is not contiguous"
        return int(array.ctypes.data)

    def fresh(self, value: Any, dtype: str) -> Tensor:
        return HostTensor(value.numpy())


class OrtEngine:
    """One session. Inputs and outputs are bound by address, so that nothing is copied on the way in or out."""

    limits: Mapping[str, int] = {}

    def __init__(self, name: str, session: ort.InferenceSession, weights: list[ort.OrtValue], place: Place) -> None:
        self.name = name
        self._session: Any = session
        self._place = place
        self._weights = weights  # the session refers to them without holding them
        self.inputs = {node.name: _spec(node) for node in session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in session.get_outputs()}

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        given = dict(outputs or {})
        check_feeds(self, feeds, given)
        binding = self._session.io_binding()
        for name, tensor in feeds.items():
            self._bind(binding.bind_input, name, tensor)
        for name in self.outputs:
            if name in given:
                self._bind(binding.bind_output, name, given[name])
            else:
                binding.bind_output(name, self._place.kind, self._place.device)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises its own classes, which share no narrower base
            raise EngineError(f"{self.name}: ONNX Runtime failed: {first_line(error)}") from error
        made = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        return {
            name: given.get(name) or self._place.fresh(made[name], spec.dtype) for name, spec in self.outputs.items()
        }

    def close(self) -> None:
        """Let go of the session; the engine cannot be run afterwards."""
        self._session = None
        self._weights.clear()

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        dtype = ONNX_BFLOAT16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype)
        bind(name, self._place.kind, self._place.device, dtype, list(tensor.shape), self._place.address(tensor))


class Weights:
    """The bundle's weight files as memory maps that all sessions share."""

    def __init__(self) -> None:
        self._maps: dict[tuple[Path, str], dict[str, Array]] = {}

    def add_to(self, options: ort.SessionOptions, bundle: Bundle, graph: str) -> list[ort.OrtValue]:
        """Hand the external initializers of a graph to a session; the values must outlive it."""
        values = []
        for name, array in self._of(bundle, graph).items():
            if bundle.manifest.precision == "bf16" and array.dtype == np.uint16:
                continue  # a type that NumPy cannot name: ONNX Runtime reads these from the file itself
            value = ort.OrtValue.ortvalue_from_numpy(array)  # refers to the map, does not copy
            values.append(value)
            options.add_initializer(name, value)
        return values

    def _of(self, bundle: Bundle, graph: str) -> dict[str, Array]:
        name = bundle.manifest.weights[graph]
        key = bundle.folder.resolve() / name, bundle.manifest.files[name].sha256  # a bundle may be exported anew
        if key not in self._maps:
            self._maps[key] = bundle.weights(graph)
        return self._maps[key]


class OrtBackend(HostMemory):
    """ONNX Runtime on the CPU. Sessions that read one weight file share one memory map of it."""

    name = "onnxruntime"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or 0  # 0: ONNX Runtime takes the physical cores
        self._weights = Weights()

    def load(self, bundle: Bundle, graph: str) -> Engine:
        """Open a session over a graph of the bundle. Raises EngineError when ONNX Runtime refuses it."""
        if bundle.manifest.precision == "bf16":
            raise EngineError(
                f"{bundle.folder}: the bundle is in bf16, which ONNX Runtime does not compute on the CPU. "
                f"Export again with --precision fp32, or run this bundle on a GPU."
            )
        options = self._options(packed=graph != "encoder" and bundle.manifest.quantization is not None)
        # An arena would keep the encoder's intermediates, by far the largest, for good and in powers of two.
        options.enable_cpu_mem_arena = graph != "encoder"
        values = self._weights.add_to(options, bundle, graph)
        session = open_session(bundle, graph, options, ["CPUExecutionProvider"])
        return OrtEngine(graph, session, values, HostPlace())

    def _options(self, packed: bool) -> ort.SessionOptions:
        options = session_options()
        options.intra_op_num_threads = self._threads
        # A packed weight is a second copy, private to the session; the map is shared by all. Products with quantized
        # weights have no other kernel: unpacked, the weights are expanded to float32 on every call.
        options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
        return options


def session_options() -> ort.SessionOptions:
    """Options that hold for every session."""
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    return options


def open_session(bundle: Bundle, graph: str, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    """Open a graph. Raises EngineError with ONNX Runtime's first line."""
    path = bundle.graph(graph)
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # as in `OrtEngine.run`
        raise EngineError(
            f"{path}: ONNX Runtime {ort.__version__} refuses the graph: {first_line(error)}{_newer(bundle)}"
        ) from error


def first_line(error: Exception) -> str:
    """What an exception says first."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _newer(bundle: Bundle) -> str:
    """1.23 is the first version whose GatherBlockQuantized takes rows of 8 bits."""
    return " Quantized bundles need version 1.23 or newer." if bundle.manifest.quantization is not None else ""


def _spec(node: Any) -> TensorSpec:
    return TensorSpec(node.name, DTYPES.get(node.type, node.type), tuple(node.shape))
