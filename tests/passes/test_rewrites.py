"""Each pass: the graph before and after, the same result up to the stated rounding, and the reason when it declines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.passes.common import MICROSOFT, refuse_left_out
from export.passes.gather_block_quantized import to_gather_block_quantized
from export.passes.matmul_nbits import to_matmul_nbits
from export.quantization.storage import EMBEDDINGS, QuantizedNames
from runtime.arrays import Array
from tests.compare import EXACT, Tol, assert_close
from tests.passes.blocks import (
    CASES,
    expand,
    gather_graph,
    int8_rows,
    matrix,
    only_node,
    product_graph,
    read,
    run,
    spec_of,
    weight_file,
)

WEIGHT, BIAS = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias"
PRODUCT = Tol(2e-4, 1e-5, why="sums of 192 products in float32, in another order")


def bias_of(rows: int) -> Array:
    return np.random.default_rng(5).standard_normal(rows).astype(np.float32)


@pytest.mark.parametrize(("bits", "block_size", "symmetric"), CASES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_becomes_a_quantized_one(
    tmp_path: Path, bits: int, block_size: int, symmetric: bool, bias: bool
) -> None:
    weight = matrix(40, 192)
    file, scheme = weight_file(tmp_path, spec_of(bits, block_size, symmetric), {WEIGHT: weight, BIAS: bias_of(40)})
    model = product_graph(file, WEIGHT, BIAS if bias else None)
    assert only_node(model)[0].op_type == "Gemm"
    report = to_matmul_nbits(model, file, scheme.product_bits)
    assert (report.replaced, report.left) == (["y:MatMulNBits"], {})
    refuse_left_out(model, [report])

    node, attributes = only_node(model)
    names = QuantizedNames.of(WEIGHT, bits)
    assert (node.op_type, node.domain, list(node.output)) == ("MatMulNBits", MICROSOFT, ["y"])
    assert attributes == {"K": 192, "N": 40, "bits": bits, "block_size": block_size, "accuracy_level": 4}
    points = "" if symmetric else names.zero_points
    want = ["x", names.codes, names.scales, points, "", BIAS] if bias else ["x", names.codes, names.scales, points]
    assert [name for name in node.input if name] == [name for name in want if name]
    assert not bias or node.input[5] == BIAS
    assert {tensor.name for tensor in model.graph.initializer} == set(node.input) - {"x", ""}
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 17), (MICROSOFT, 1)}


@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize(("bits", "block_size", "symmetric"), CASES)
def test_the_quantized_product_is_its_definition(
    tmp_path: Path, bits: int, block_size: int, symmetric: bool, rows: int
) -> None:
    file, scheme = weight_file(tmp_path, spec_of(bits, block_size, symmetric), {WEIGHT: matrix(40, 192)})
    model = product_graph(file, WEIGHT, None)
    to_matmul_nbits(model, file, scheme.product_bits)
    x = np.random.default_rng(1).standard_normal((rows, 192)).astype(np.float32)
    names = QuantizedNames.of(WEIGHT, bits)
    codes, scales = read(file, names.codes), read(file, names.scales)
    assert codes is not None and scales is not None
    weight = expand(codes, scales, read(file, names.zero_points), bits).astype(np.float64)
    got = run(model, tmp_path, x=x)
    unrounded = x @ weight.T
    # x is rounded to int8 by block, or (where the processor has no kernel for that) left as it is
    nearest = min((int8_rows(x, block_size) @ weight.T, unrounded), key=lambda want: float(np.abs(got - want).max()))
    assert_close("y", got, nearest, PRODUCT)
    error = np.sqrt(((got - unrounded) ** 2).mean() / (unrounded**2).mean())
    assert error < 0.01


def test_the_bias_is_added(tmp_path: Path) -> None:
    bias = bias_of(40)
    file, scheme = weight_file(tmp_path, spec_of(4), {WEIGHT: matrix(40, 192), BIAS: bias})
    plain, biased = product_graph(file, WEIGHT, None), product_graph(file, WEIGHT, BIAS)
    for rows in (1, 6):
        x = np.random.default_rng(rows).standard_normal((rows, 192)).astype(np.float32)
        results = []
        for model in (plain, biased):
            to_matmul_nbits(model, file, scheme.product_bits)
            results.append(run(model, tmp_path, x=x))
        assert_close("y", results[1], results[0] + bias, Tol(1e-5, 1e-6))


@pytest.mark.parametrize(("bits", "block_size", "symmetric"), CASES)
def test_gathered_rows_are_exact(tmp_path: Path, bits: int, block_size: int, symmetric: bool) -> None:
    """And the table is the very bytes of the product that shares it."""
    file, scheme = weight_file(tmp_path, spec_of(bits, block_size, symmetric), {EMBEDDINGS: matrix(30, 192)})
    model = gather_graph(file, EMBEDDINGS)
    report = to_gather_block_quantized(model, file, scheme.row_bits)
    assert (report.replaced, report.left) == (["y:GatherBlockQuantized"], {})
    node, attributes = only_node(model)
    assert (node.op_type, node.domain) == ("GatherBlockQuantized", MICROSOFT)
    assert attributes == {"gather_axis": 0, "quantize_axis": 1, "bits": bits, "block_size": block_size}
    names = QuantizedNames.of(EMBEDDINGS, bits)
    assert file.records[names.rows].offset == file.records[names.codes].offset
    codes, scales = read(file, names.codes), read(file, names.scales)
    assert codes is not None and scales is not None
    ids = np.array([[0, 29, 1], [7, 7, 3]], np.int32)
    want = expand(codes, scales, read(file, names.zero_points), bits)[ids]
    assert_close("y", run(model, tmp_path, ids=ids), want, EXACT)


def product(folder: Path, weights: dict[str, Array], **attributes: object) -> tuple[onnx.ModelProto, dict[str, str]]:
    file, scheme = weight_file(folder, spec_of(8), weights)
    model = product_graph(file, next(iter(weights)), None, **attributes)
    before = model.SerializeToString(deterministic=True)
    report = to_matmul_nbits(model, file, scheme.product_bits)
    assert report.replaced == []
    assert model.SerializeToString(deterministic=True) == before
    return model, report.left


@pytest.mark.parametrize(
    ("name", "attributes", "reason"),
    [
        ("point_proj.weight", {}, "'point_proj.weight' is kept in floating point"),
        (WEIGHT, {"transB": 0}, "transB is 0, but 1 was expected"),
        (WEIGHT, {"alpha": 2.0, "transA": 1}, "alpha is 2.0, but 1.0 was expected, transA is 1, but 0 was expected"),
    ],
)
def test_a_product_that_does_not_match_says_why(
    tmp_path: Path, name: str, attributes: dict[str, object], reason: str
) -> None:
    assert product(tmp_path, {name: matrix(64, 64)}, **attributes)[1] == {"y:Gemm": reason}


def test_a_weight_that_is_not_stored_is_never_left_behind(tmp_path: Path) -> None:
    model, left = product(tmp_path, {WEIGHT: matrix(64, 64)}, transB=0)
    file, scheme = weight_file(tmp_path, spec_of(8), {WEIGHT: matrix(64, 64)})
    report = to_matmul_nbits(model, file, scheme.product_bits)
    assert report.left == left
    with pytest.raises(ValueError, match=r"y:Gemm reads 'model.+up_proj\.weight', which is not stored: transB is 0"):
        refuse_left_out(model, [report])


def test_computed_factors_and_constants_are_no_weights(tmp_path: Path) -> None:
    file, scheme = weight_file(tmp_path, spec_of(8), {WEIGHT: matrix(64, 64)})
    model = product_graph(file, WEIGHT, None)
    model.graph.node[0].input[1] = "x"
    assert to_matmul_nbits(model, file, scheme.product_bits).left == {"y:Gemm": "'x' is computed, not stored"}
    model = gather_graph(file, WEIGHT)
    assert to_gather_block_quantized(model, file, scheme.row_bits).left == {
        "y:Gather": f"'{WEIGHT}' is kept in floating point"
    }
    model.graph.initializer[0].data_location = onnx.TensorProto.DEFAULT
    (reason,) = to_gather_block_quantized(model, file, scheme.row_bits).left.values()
    assert reason == f"'{WEIGHT}' lies in the graph itself, not in the weight file"


def test_rows_along_another_axis_are_left(tmp_path: Path) -> None:
    file, scheme = weight_file(tmp_path, spec_of(8), {EMBEDDINGS: matrix(64, 64)})
    report = to_gather_block_quantized(gather_graph(file, EMBEDDINGS, axis=1), file, scheme.row_bits)
    assert report.left == {"y:Gather": "axis is 1, but 0 was expected"}
