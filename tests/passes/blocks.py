"""The definition of the quantized form, written once more with numpy, and graphs of one node around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

from export.graph.builder import FLOAT, INT32, GraphBuilder
from export.graph.weights import WeightFile
from export.quantization.storage import Scheme, store
from runtime.arrays import Array
from runtime.manifest import QuantizationSpec

CASES = [(bits, block_size, symmetric) for bits in (8, 4) for block_size in (16, 32, 64) for symmetric in (True, False)]


def spec_of(bits: int, block_size: int = 32, symmetric: bool = False) -> QuantizationSpec:
    return QuantizationSpec(bits=bits, block_size=block_size, symmetric=symmetric, head=bits, embeddings=bits)


def matrix(rows: int, columns: int, seed: int = 0) -> Array:
    """Normal weights with an outlier here and there, a row of zeros and blocks of one sign."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * np.where(rng.random((rows, columns)) < 0.01, 8, 1)
    values[1], values[2], values[3] = 0, np.abs(values[2]), -np.abs(values[3])
    return values.astype(np.float32)


def nibbles(packed: Array, bits: int) -> Array:
    """Codes one by one: of each byte first the lower half, then the upper one."""
    if bits == 8:
        return packed
    return np.stack([packed % 16, packed // 16], axis=-1).reshape(*packed.shape[:-1], -1)


def expand(codes: Array, scales: Array, zero_points: Array | None, bits: int) -> Array:
    """(code - zero point) * scale, element by element in float32: [N, blocks, bytes], [N, blocks] -> [N, K]."""
    integers = nibbles(codes, bits).astype(np.float32)
    points: Array = np.full(scales.shape, 2 ** (bits - 1), np.float32)
    if zero_points is not None:
        points = nibbles(zero_points, bits)[:, : scales.shape[1]].astype(np.float32)
    weights: Array = ((integers - points[..., None]) * scales[..., None]).reshape(len(codes), -1)
    return weights


def int8_rows(x: Array, block_size: int) -> Array:
    """x [R, K] as MatMulNBits sees it at accuracy level 4: each block rounded to int8 by its largest magnitude."""
    blocks = x.reshape(len(x), -1, block_size)
    scales = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    rounded: Array = (np.rint(blocks / np.where(scales == 0, 1, scales)) * scales).reshape(x.shape)
    return rounded


def weight_file(folder: Path, quantization: QuantizationSpec, weights: dict[str, Array]) -> tuple[WeightFile, Scheme]:
    """A finished weight file of a model with tied embeddings."""
    file, scheme = WeightFile(folder / "model.weights"), Scheme(quantization, tied=True)
    for name, values in weights.items():
        store(file, name, torch.from_numpy(values), scheme)
    file.close()
    return file, scheme


def read(file: WeightFile, name: str) -> Array | None:
    """A tensor as it lies in the file."""
    if name not in file.records:
        return None
    record = file.records[name]
    dtype = str(record.dtype).removeprefix("torch.")
    flat: Array = np.fromfile(file.path, np.uint8, record.bytes, offset=record.offset).view(dtype)
    return flat.reshape(record.shape)


def product_graph(file: WeightFile, weight: str, bias: str | None, **attributes: object) -> onnx.ModelProto:
    """y = Gemm(x, weight, bias)."""
    g = GraphBuilder("product", file)
    x = g.input("x", FLOAT, ["R", "K"])
    tensors = [g.weight(weight)] + ([g.weight(bias)] if bias else [])
    g.op("Gemm", x, *tensors, name="y", **({"transB": 1} | attributes))
    g.output("y", FLOAT, ["R", "N"])
    return g.build()


def gather_graph(file: WeightFile, table: str, **attributes: object) -> onnx.ModelProto:
    """y = Gather(table, ids)."""
    g = GraphBuilder("gather", file)
    g.op("Gather", g.weight(table), g.input("ids", INT32, ["B", "T"]), name="y", **attributes)
    g.output("y", FLOAT, ["B", "T", "C"])
    return g.build()


def only_node(model: onnx.ModelProto) -> tuple[onnx.NodeProto, dict[str, object]]:
    """The one node of a graph, and its attributes."""
    (node,) = model.graph.node
    return node, {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def run(model: onnx.ModelProto, folder: Path, **feeds: Array) -> Array:
    """Output y, computed by ONNX Runtime beside the weight file."""
    import onnxruntime as ort

    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    y: Array = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(["y"], feeds)[0]
    return y
