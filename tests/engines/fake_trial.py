"""One tiny graph, built and run by hand on a version of the fake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.fake_gpu_fixture import FakeGpu


def write_graph(path: Path) -> Path:
    """y = x + bias + x with x [B, 4], weights beside it; z the shape of x, in 64 bits."""
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["sum"], name="sum"),
        helper.make_node("Add", ["sum", "x"], ["y"], name="twice"),
        helper.make_node("Shape", ["x"], ["z"], name="shape"),
    ]
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [4], np.arange(4, dtype=np.float32).tobytes(), raw=True)
    value = helper.make_tensor_value_info
    outputs = [value("y", TensorProto.FLOAT, ["B", 4]), value("z", TensorProto.INT64, [2])]
    made = helper.make_graph(nodes, "tiny", [value("x", TensorProto.FLOAT, ["B", 4])], outputs, [bias])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location="tiny.weights", size_threshold=0)
    return path


class Trial:
    """One graph, built and run by hand on one version."""

    def __init__(self, gpu: FakeGpu, graph: Path) -> None:
        self.gpu, self.trt, self.rt, self.graph = gpu, gpu.tensorrt, gpu.cudart, graph
        self.errors: list[str] = []
        self.logger = _logger(gpu.tensorrt, self.errors)

    def build(self, largest: int = 8, flags: int | None = None, change: Any = None) -> Any:
        builder = self.trt.Builder(self.logger)
        network = builder.create_network(self.flags if flags is None else flags)
        parser = self.trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(self.graph)):
            return None
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("x", (1, 4), (2, 4), (largest, 4))
        config.add_optimization_profile(profile)
        if change is not None:
            change(network, config)
        return builder.build_serialized_network(network, config)

    @property
    def flags(self) -> int:
        kinds = self.trt.NetworkDefinitionCreationFlag
        return 1 << int(kinds.STRONGLY_TYPED if hasattr(kinds, "STRONGLY_TYPED") else kinds.EXPLICIT_BATCH)

    def engine(self, plan: Any = None) -> Any:
        return self.trt.Runtime(self.logger).deserialize_cuda_engine(self.build() if plan is None else plan)

    def context(self, engine: Any) -> Any:
        """With working memory, but without shapes and addresses."""
        if hasattr(self.trt, "ExecutionContextAllocationStrategy"):
            context = engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            context.set_device_memory(self.malloc(engine.device_memory_size_v2), engine.device_memory_size_v2)
        else:
            context = engine.create_execution_context_without_device_memory()
            context.device_memory = self.malloc(engine.device_memory_size)
        return context

    def malloc(self, size: int) -> int:
        error, address = self.rt.cudaMalloc(size)
        assert int(error) == 0
        return int(address)

    def ready(self, batch: int = 2) -> tuple[Any, int, int]:
        """A context that can run, and the addresses of x (1, 2, 3, ...) and y."""
        context, x, y = self.context(self.engine()), self.malloc(16 * batch), self.malloc(16 * batch)
        assert context.set_input_shape("x", (batch, 4)) and context.infer_shapes() == []
        for name, address in {"x": x, "y": y, "z": self.malloc(16)}.items():
            assert context.set_tensor_address(name, address)
        self.values(x, batch)[...] = np.arange(1, 4 * batch + 1).reshape(batch, 4)
        return context, x, y

    def values(self, address: int, batch: int = 2) -> Any:
        return self.gpu.device.view(address, (batch, 4), "float32")

    def stream(self) -> int:
        return int(self.rt.cudaStreamCreate()[1])


def _logger(trt: Any, errors: list[str]) -> Any:
    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity == trt.ILogger.ERROR:
                errors.append(msg)

    return Messages()
