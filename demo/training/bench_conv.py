"""GPU time of the encoder's convolutions and gathers, plain against fast: python -m demo.training.bench_conv

Generated rooms, the five stages, bf16. Every operation is captured as a CUDA graph, as training runs it, and replayed:
medians in milliseconds, and by how much the two results differ, as a share of the largest number. With --sweep the
kernels' plans (rows of a block, warps, pipeline stages) are tried one after another, and the best are named. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from demo.rooms import make_scan
from demo.training import convolution
from demo.training.config import write_config
from demo.training.gathers import from_patches, into_patches, largest_child
from demo.training.geometry import Stage, geometry, voxelize
from runtime.errors import SceneError
from runtime.manifest import EncoderSpec

SEED, DIFFERENT = 30_000_000, 8  # rooms that are made; more of them are the same again
WARM_UPS = 3
BLOCKS, WARPS, STAGES = (64, 128, 256), (4, 8), (2, 3)  # compiled and timed in some minutes
LINE = "{stage:>5}{voxels:>10}{channels:>10}  {name:16}{plain_ms:>10}{fast_ms:>10}{difference:>12}"

Operation = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Contest:
    """Two ways to the same tensors."""

    stage: int
    voxels: int
    channels: int
    name: str
    plain: Operation
    fast: Operation


def stages_of(rooms: int, spec: EncoderSpec, device: torch.device) -> list[Stage]:
    """Tables of a batch of generated rooms."""
    scans = [make_scan(SEED + number) for number in range(min(rooms, DIFFERENT))]
    corners = [torch.from_numpy(scan.points - scan.points.min(axis=0)) for scan in scans]
    chosen = [corners[number % len(corners)] for number in range(rooms)]
    scene = torch.repeat_interleave(torch.arange(rooms), torch.tensor([len(one) for one in chosen])).to(device)
    points = torch.cat(chosen).double().to(device)
    rows, grid = voxelize(points, scene, spec.num_bins)
    return geometry(grid, points[rows].float(), scene[rows], rooms, spec).stages


def contests(stages: list[Stage], spec: EncoderSpec) -> Iterator[Contest]:
    """Everything that is timed."""
    for number, (stage, channels) in enumerate(zip(stages, spec.channels, strict=True)):
        count = len(stage.neighbours)
        for name, plain, fast in (*_convolutions(stage, channels), *_gathers(stage, channels)):
            yield Contest(number, count, channels, name, plain, fast)


def _convolutions(stage: Stage, channels: int) -> Iterator[tuple[str, Operation, Operation]]:
    x, grad = (_random(len(stage.neighbours), channels, stage) for _ in range(2))
    weight, bias = _random(channels, 27 * channels, stage), _random(1, channels, stage)[0]

    def forward(way: convolution.Arithmetic) -> Operation:
        return lambda: (way.gather_matmul(x, stage.neighbours, weight, bias),)

    def backward(way: convolution.Arithmetic) -> Operation:
        return lambda: (way.weight_gradient(grad, x, stage.neighbours),)

    plain, fast = convolution.PLAIN, convolution.fused()
    yield "gather_matmul", forward(plain), forward(fast)  # the gradient to x is the same operation
    yield "weight_gradient", backward(plain), backward(fast)


def _gathers(stage: Stage, channels: int) -> Iterator[tuple[str, Operation, Operation]]:
    """Forward and backward together; plain is an indexed read and its own gradient."""
    patches, count = next(iter(stage.patches.values())), len(stage.neighbours)
    order = patches.order.flatten()
    qkv, rows = _random(count, 3 * channels, stage), _random(len(order), channels, stage)
    yield (
        "into_patches",
        *_both_ways(
            lambda x: x.index_select(0, order).unflatten(0, patches.order.shape),
            lambda x: into_patches(x, patches),
            qkv,
        ),
    )
    yield (
        "from_patches",
        *_both_ways(
            lambda x: x.flatten(0, 1).index_select(0, patches.inverse),
            lambda x: from_patches(x, patches),
            rows.unflatten(0, patches.order.shape),
        ),
    )
    if stage.children is not None:
        children = stage.children
        yield (
            "largest_child",
            *_both_ways(
                lambda x: x.index_select(0, children.flatten()).unflatten(0, children.shape).amax(1),
                lambda x: largest_child(x, children),
                _distinct(children, count, channels),
            ),
        )


def _both_ways(
    plain: Callable[[Tensor], Tensor], fast: Callable[[Tensor], Tensor], value: Tensor
) -> tuple[Operation, Operation]:
    """Each with its gradient, for the same probe."""
    probe = torch.randn_like(plain(value))

    def with_gradient(function: Callable[[Tensor], Tensor]) -> Operation:
        def run() -> tuple[Tensor, ...]:
            leaf = value.detach().requires_grad_()
            out = function(leaf)
            return out.detach(), *torch.autograd.grad(out, leaf, probe)

        return run

    return with_gradient(plain), with_gradient(fast)


def _random(rows: int, columns: int, stage: Stage) -> Tensor:
    return torch.randn(rows, columns, device=stage.neighbours.device, dtype=torch.bfloat16)


def _distinct(children: Tensor, voxels: int, channels: int) -> Tensor:
    """Values [N, C] that differ among the children of a voxel, or the two ways would give the gradient to others."""
    slot = torch.arange(children.shape[1], device=children.device).repeat(len(children))
    own = slot.new_zeros(voxels).index_put_((children.flatten(),), slot)
    return ((own[:, None] + torch.arange(channels, device=own.device)) % children.shape[1]).bfloat16()


def milliseconds(operation: Operation, runs: int) -> float:
    """Median GPU time of a replayed capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            operation()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        operation()
    return statistics.median(_replayed(graph) for _ in range(runs + WARM_UPS))


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    graph.replay()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def difference(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> float:
    """The largest difference as a share of the largest number."""
    pairs = [(a.float(), b.float()) for a, b in zip(one, other, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def compare(contest: Contest, runs: int) -> dict[str, Any]:
    """One row of the result."""
    apart = difference(contest.fast(), contest.plain())
    times = {name: milliseconds(getattr(contest, name), runs) for name in ("plain", "fast")}
    facts = {name: getattr(contest, name) for name in ("stage", "voxels", "channels", "name")}
    return facts | {f"{name}_ms": round(value, 4) for name, value in times.items()} | {"difference": round(apart, 6)}


def sweep(contest: Contest, runs: int) -> dict[str, Any]:
    """The best plans of a kernel for one stage, fastest first."""
    from triton.runtime.errors import OutOfResources

    from demo.training import convolution_kernels as kernels

    table = kernels.FORWARD if contest.name == "gather_matmul" else kernels.WEIGHT
    width, times = kernels.filled_up(contest.channels), {}
    usual = table[width]
    plans = [usual, *(kernels.Plan(*one) for one in product(BLOCKS, WARPS, STAGES))]
    for plan in tqdm(plans, leave=False, desc=contest.name):
        table[width] = plan
        try:
            times[plan] = round(milliseconds(contest.fast, runs), 4)
        except OutOfResources:
            continue
        finally:
            table[width] = usual
    best = sorted(times.items(), key=lambda item: item[1])[:3]
    return {"stage": contest.stage, "name": contest.name, "usual": [*usual, times.get(usual)],
            "best": [[*plan, time] for plan, time in best]}  # fmt: skip


def measure(rooms: int, runs: int, *, with_sweep: bool) -> dict[str, Any]:
    """All rows, printed as they come."""
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        spec = write_config(Path(folder), "3D_only").encoder
    facts: dict[str, Any] = {"benchmark": "bench_conv", "device": torch.cuda.get_device_name(device), "rooms": rooms,
                             "runs": runs, "rows": [], "sweep": []}  # fmt: skip
    print(LINE.format(stage="stage", voxels="voxels", channels="channels", name="", plain_ms="plain ms",
                      fast_ms="fast ms", difference="difference"))  # fmt: skip
    for contest in contests(stages_of(rooms, spec, device), spec):
        row = compare(contest, runs)
        facts["rows"].append(row)
        print(LINE.format(**row))
        if with_sweep and contest.name in ("gather_matmul", "weight_gradient"):
            facts["sweep"].append(sweep(contest, runs))
            print(f"      plans: {facts['sweep'][-1]}")
    return facts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=48, help="rooms of the batch (default: 48)")
    parser.add_argument("--runs", type=int, default=20, help="timed replays of each operation (default: 20)")
    parser.add_argument("--sweep", action="store_true", help="try the kernels' plans, too")
    args = parser.parse_args(arguments)
    try:
        _check_machine()
    except SceneError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(measure(args.rooms, args.runs, with_sweep=args.sweep)))
    return 0


def _check_machine() -> None:
    if not torch.cuda.is_available():
        raise SceneError("bench_conv times CUDA kernels, and PyTorch sees no NVIDIA GPU here. Run it where one is.")
    if not convolution.has_triton():
        raise SceneError("bench_conv needs triton, which is not installed. Install it: pip install triton")


if __name__ == "__main__":
    sys.exit(main())
