"""The ONNX Runtime back end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OrtEngine:
    """One session. Inputs and outputs are bound by address, so that nothing is copied on the way in or out."""

    def __init__(self, name: str, session: ort.InferenceSession, weights: list[ort.OrtValue]) -> None:
        self.name = name
        self._session = session
        self._weights = weights  # the session refers to them without holding them
        self.inputs = {node.name: _spec(node) for node in session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in session.get_outputs()}

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        given = dict(outputs or {})
        check_feeds(self, feeds, given)
        binding = self._session.io_binding()
        for name, tensor in feeds.items():
            _bind(binding.bind_input, name, host_array(tensor))
        for name in self.outputs:
            if name in given:
                _bind(binding.bind_output, name, host_array(given[name]))
            else:
                binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises its own classes, which share no narrower base
            raise EngineError(f"{self.name}: ONNX Runtime failed: {_first_line(error)}") from error
        fresh = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        return {name: given.get(name) or HostTensor(fresh[name].numpy()) for name in self.outputs}


class OrtBackend(HostMemory):
    """ONNX Runtime on the CPU. Sessions that read one weight file share one memory map of it."""

    name = "onnxruntime"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or 0  # 0: ONNX Runtime takes the physical cores
        self._weights: dict[tuple[Path, str], dict[str, Array]] = {}

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
        values = []
        for name, array in self._shared(bundle, graph).items():
            value = ort.OrtValue.ortvalue_from_numpy(array)  # refers to the map, does not copy
            values.append(value)
            options.add_initializer(name, value)
        path = bundle.graph(graph)
        try:
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise EngineError(
                f"{path}: ONNX Runtime {ort.__version__} refuses the graph: {_first_line(error)}{_newer(bundle)}"
            ) from error
        return OrtEngine(graph, session, values)

    def _options(self, packed: bool) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = FATAL
        # A packed weight is a second copy, private to the session; the map is shared by all. Products with quantized
        # weights have no other kernel: unpacked, the weights are expanded to float32 on every call.
        options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
        return options

    def _shared(self, bundle: Bundle, graph: str) -> dict[str, Array]:
        name = bundle.manifest.weights[graph]
        key = bundle.folder.resolve() / name, bundle.manifest.files[name].sha256  # a bundle may be exported anew
        if key not in self._weights:
            self._weights[key] = bundle.weights(graph)
        return self._weights[key]


def _newer(bundle: Bundle) -> str:
    """1.23 is the first version whose GatherBlockQuantized takes rows of 8 bits."""
    return " Quantized bundles need version 1.23 or newer." if bundle.manifest.quantization is not None else ""


def _spec(node: Any) -> TensorSpec:
    return TensorSpec(node.name, DTYPES.get(node.type, node.type), tuple(node.shape))


def _bind(bind: Any, name: str, array: Array) -> None:
    assert array.flags.c_contiguous, f"{name} is not contiguous"
    bind(name, "cpu", 0, array.dtype, list(array.shape), array.ctypes.data)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
