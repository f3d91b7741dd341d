"""Two ways to write a root-mean-square norm: equal in float32, and the scaled one finite in half precision too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from export.graph.builder import FLOAT, FLOAT16, GraphBuilder
from export.graph.layers import NORMS
from export.graph.weights import WeightFile
from export.tensorrt_graphs import STACKED
from runtime.arrays import Array
from runtime.bundle import ROWS, Bundle
from tests.compare import Tol, assert_close

EPS, WIDTH = 1e-6, 64
PAST_LENGTH = "past_length"
SAME = Tol(1e-6, 1e-6, why="a division more in float32")
LAYERS = Tol(2e-5, 1e-5, why="other roundings through two layers")
HALVES = Tol(1e-4, 2e-3, why="each step rounded to half precision")
SCALES = {"common": 1.0, "embeddings": 0.02, "tiny": 3e-5, "large": 900.0, "as large as half has": 60_000.0}


def norm(tmp_path: Path, kind: str, dtype: int) -> onnx.ModelProto:
    weights = WeightFile(tmp_path / f"{kind}.weights")
    weights.add("w", torch.ones(WIDTH, dtype=torch.float16 if dtype == FLOAT16 else torch.float32))
    weights.close()
    g = GraphBuilder("norm", weights)
    g.op("Identity", NORMS[kind](g, g.input("x", dtype, ["R", WIDTH]), "w", EPS, dtype), name="y")
    g.output("y", dtype, ["R", WIDTH])
    return g.build()


def narrowed(model: onnx.ModelProto) -> onnx.ModelProto:
    """As TensorRT 8.6 may compile it under its flag for half precision: no float32 is left."""
    graph = model.graph
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast":
                attribute.i = FLOAT16
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.data_location != TensorProto.EXTERNAL:
            half = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            tensor.CopyFrom(half)
    return model


def run(model: onnx.ModelProto, folder: Path, x: Array) -> Array:
    """By numpy, each operator in its own type: ONNX Runtime would compute some of the halves in float32."""
    onnx.save(model, folder / "norm.onnx")
    with np.errstate(over="ignore", invalid="ignore"):
        result: Array = ReferenceEvaluator(str(folder / "norm.onnx")).run(None, {"x": x})[0]
    return result


def rows(scale: float, dtype: type) -> Array:
    """One row of numbers alike, one with a channel that towers above the others, as trained models have."""
    values = np.random.default_rng(4).uniform(-1, 1, (2, WIDTH))
    values[1, 5] = 1500 / max(scale, 1500 / 60)
    return np.clip(values * scale, -60_000, 60_000).astype(dtype)


def wanted(x: Array) -> Array:
    wide = x.astype(np.float64)
    normed: Array = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + EPS)
    return normed


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("kind", NORMS)
def test_equal_in_float32(tmp_path: Path, kind: str, scale: float) -> None:
    x = rows(scale, np.float32)
    assert_close(kind, run(norm(tmp_path, kind, FLOAT), tmp_path, x), wanted(x), SAME)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_the_scaled_one_is_right_in_half_precision(tmp_path: Path, scale: float) -> None:
    x = rows(scale, np.float16)
    got = run(narrowed(norm(tmp_path, "scaled", FLOAT16)), tmp_path, x)
    assert_close("scaled", got.astype(np.float64), wanted(x), HALVES)


def test_the_plain_one_is_not(tmp_path: Path) -> None:
    """The reason why the other exists: squares beyond the range, and every number becomes 0."""
    got = run(narrowed(norm(tmp_path, "plain", FLOAT16)), tmp_path, rows(900.0, np.float16))
    assert not got.any()


def test_only_the_graphs_for_tensorrt_change(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("qwen"))
    plain, scaled = tmp_path / "plain", tmp_path / "scaled"
    write_bundle(checkpoint, plain, ExportOptions(max_length=64))
    write_bundle(checkpoint, scaled, ExportOptions(max_length=64, tensorrt_norm="scaled"))
    one, other = Bundle.open(plain).manifest.files, Bundle.open(scaled).manifest.files
    differing = {name for name in one if one[name] != other[name]}
    assert differing == {f"{name}.onnx" for name in STACKED}
    for name in STACKED:
        onnx.checker.check_model(str(scaled / f"{name}.onnx"), full_check=True)
        want, got = (outputs(folder / f"{name}.onnx") for folder in (plain, scaled))
        assert sorted(want) == ["logits", ROWS]
        for output in want:
            assert_close(
                f"{name}: {output}", got[output], want[output], Tol(2e-5, 1e-5, why="other roundings, two layers")
            )


def outputs(path: Path) -> dict[str, Array]:
    """What a graph gives for three tokens over a cache of which two rows are valid."""
    session, rng = ort.InferenceSession(path, providers=["CPUExecutionProvider"]), np.random.default_rng(8)
    sizes = {"B": 1, "T": 3, "S": 3, "M": 4}
    given = {"lengths": np.asarray([3], np.int32), PAST_LENGTH: np.asarray([2], np.int32)}
    feeds: dict[str, Array] = {}
    for tensor in session.get_inputs():
        shape = [sizes.get(axis, axis) for axis in tensor.shape]
        if tensor.type == "tensor(float)":
            feeds[tensor.name] = rng.uniform(-1, 1, shape).astype(np.float32)
        else:
            values = rng.integers(0, 2 if tensor.type == "tensor(bool)" else 500, shape)
            feeds[tensor.name] = given.get(tensor.name, values.astype(bool if "bool" in tensor.type else np.int32))
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds), strict=True))
