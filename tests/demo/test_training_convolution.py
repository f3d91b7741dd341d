"""The Triton convolution against its plain twin: on a GPU compiled, elsewhere in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from demo.training.convolution import PLAIN, Arithmetic, convolve, convolve_with, fused
from demo.training.geometry import neighbours

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])]  # the interpreter lacks bf16
WIDTHS = [(32, 32), (48, 48), (64, 64), (96, 96), (128, 128), (32, 48), (128, 96), (5, 7)]
ALONE = torch.tensor([[3, 4, 5]])
SURFACES = {  # grids of voxels, none a multiple of a block of rows but one
    "alone": lambda: ALONE,
    "scattered": lambda: torch.cartesian_prod(*[torch.arange(0, 15, 3)] * 3),  # 125, no voxel beside another
    "solid": lambda: torch.cartesian_prod(torch.arange(4), torch.arange(8), torch.arange(8)),  # 256
    "wall": lambda: torch.cartesian_prod(torch.arange(1), torch.arange(33), torch.arange(37)),  # 1221: two splits
    "ragged": lambda: torch.unique(torch.randint(0, 9, (350, 3), generator=torch.Generator().manual_seed(3)), dim=0),
}


@dataclass(frozen=True)
class Case:
    x: Tensor
    neighbours: Tensor
    weight: Tensor
    bias: Tensor
    probe: Tensor

    def results(self, arithmetic: Arithmetic, dtype: torch.dtype) -> dict[str, Tensor]:
        """Output and gradients with x and the incoming gradient in `dtype`, and float parameters, all as float64."""
        kind = torch.promote_types(dtype, torch.float32)  # of the parameters
        x, weight, bias = (t.detach().clone() for t in (self.x.to(dtype), self.weight.to(kind), self.bias.to(kind)))
        leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
        out = convolve_with(arithmetic, x, self.neighbours, weight, bias)
        out.backward(self.probe.to(dtype))
        got = dict(zip(("x", "weight", "bias"), (leaf.grad for leaf in leaves), strict=True), out=out.detach())
        assert got["weight"].dtype == got["bias"].dtype == kind
        return {name: value.double() for name, value in got.items()}


def case(surface: str, wide: tuple[int, int], dtype: torch.dtype) -> Case:
    """Random numbers that `dtype` holds exactly."""
    rng = torch.Generator().manual_seed(7)
    grid = SURFACES[surface]()
    x, weight, bias, probe = (
        torch.randn(shape, generator=rng).to(dtype).to(DEVICE)
        for shape in ((len(grid), wide[0]), (wide[1], 27 * wide[0]), (wide[1],), (len(grid), wide[1]))
    )
    table = neighbours(grid, torch.zeros(len(grid), dtype=torch.long)).to(DEVICE)
    return Case(x, table, weight, bias, probe)


def assert_near_plain(one: Case, dtype: torch.dtype) -> None:
    """Half precision rounds once, at the end of x's; sums, and the parameters' gradients, are float32."""
    want = one.results(PLAIN, torch.float64)
    for name, got in one.results(fused(), dtype).items():
        rounding = 4e-6 if dtype == torch.float32 or name in ("weight", "bias") else torch.finfo(dtype).eps
        scale = float(want[name].abs().max())
        torch.testing.assert_close(got, want[name], rtol=rounding, atol=4e-6 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface(surface: str, dtype: torch.dtype) -> None:
    assert_near_plain(case(surface, (32, 32), dtype), dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("wide", WIDTHS, ids=str)
def test_every_width(wide: tuple[int, int], dtype: torch.dtype) -> None:
    assert_near_plain(case("ragged", wide, dtype), dtype)


def test_a_voxel_alone_sees_the_middle_of_the_kernel() -> None:
    one = case("alone", (32, 48), torch.float32)
    middle = one.weight.unflatten(1, (27, -1))[:, 13]
    got = one.results(fused(), torch.float32)
    torch.testing.assert_close(got["out"].float(), one.x @ middle.t() + one.bias)
    others = got["weight"].unflatten(1, (27, -1)).abs().amax(dim=(0, 2))
    assert others[13] > 0 and int((others > 0).sum()) == 1


def test_tables_of_any_type_and_layout_are_the_same() -> None:
    one = case("ragged", (32, 32), torch.float32)
    want = fused().gather_matmul(one.x, one.neighbours, one.weight, None)
    for table in (one.neighbours.long(), one.neighbours.contiguous(), one.neighbours.long().contiguous()):
        assert torch.equal(fused().gather_matmul(one.x, table, one.weight, None), want)


def test_the_weights_gradient_is_the_same_on_every_run() -> None:
    one = case("wall", (32, 32), torch.float32)
    runs = [fused().weight_gradient(one.probe, one.x, one.neighbours) for _ in range(2)]
    assert torch.equal(*runs)


def test_kernels_know_what_they_cannot_do() -> None:
    from demo.training.convolution_kernels import supports

    weight = torch.empty(32, 27 * 32)
    assert supports(torch.empty(9, 32), weight)
    assert not supports(torch.empty(9, 32, dtype=torch.float64), weight)
    assert not supports(torch.empty(0, 32), weight)
    assert not supports(torch.empty(9, 256), weight)
    assert not supports(torch.empty(1, 32).expand(2**27, 32), weight)


def test_half_precision_by_autocast_keeps_the_parameters_gradients_in_float32() -> None:
    one = case("ragged", (32, 32), torch.bfloat16)
    x, weight = one.x.float().requires_grad_(), one.weight.float().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        out = convolve(x, one.neighbours, weight, one.bias.float())
    out.backward(one.probe)
    assert out.dtype == torch.bfloat16
    assert x.grad is not None and weight.grad is not None and weight.grad.dtype == torch.float32
    want = one.results(PLAIN, torch.float64)
    for got, name in ((out.detach(), "out"), (x.grad, "x"), (weight.grad, "weight")):
        scale = float(want[name].abs().max())
        torch.testing.assert_close(got.double(), want[name], rtol=1e-2, atol=4e-3 * scale)


def test_kernels_fit_an_h100() -> None:
    """Compiled for it, which needs no GPU, in a process of its own, since here triton may be an interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.demo.compiled_kernels"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout)
    assert len(compiled) == 10
    for name, facts in compiled.items():
        assert facts["spilled"] == 0 and facts["shared"] <= 227 * 1024, (name, facts)
        assert facts["tensor_cores"] and facts["pipelined"], (name, facts)
