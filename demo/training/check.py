"""Does training do on this GPU what it does elsewhere, and how fast? For the first minute on a new machine.

python -m demo.training.check

On 64 rooms, made first: the batched geometry against the CPU's, the fused convolution against the plain one, steps as a
CUDA graph against steps launched kernel by kernel, and what each takes. The last line is JSON; exit code 1 and a
sentence for each thing that differs. The times tell how to train: the slower of `graph_ms` and the feeder's
milliseconds is what a step takes, and where the feeder is the slower one, a larger --batch_size costs no time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo.rooms import SPLITS
from demo.training.batch import Batch, Maker
from demo.training.check_geometry import compare_geometry
from demo.training.config import MODES, write_config
from demo.training.convolution import PLAIN, Arithmetic, convolve_with, fused, triton_works
from demo.training.feeder import Feeder, random_questions
from demo.training.loss import Loss
from demo.training.model import new_model
from demo.training.pack import pack
from demo.training.padding import find_caps
from demo.training.prompts import Prompts
from demo.training.step import EagerStep, GraphStep, Learner
from demo.training.store import RoomStore
from demo.training.trainer import prepare
from runtime.door import guarded
from runtime.errors import SceneError

Step = Callable[[Batch], Tensor]
RATE = 5e-4  # of the steps that are compared
STEPS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 1 where something differs, 2 where it cannot run."""
    p = argparse.ArgumentParser(
        prog="python -m demo.training.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--mode", choices=MODES, default="3D_with_1D")
    p.add_argument("--count", type=int, default=64, help="rooms to make (default: 64)")
    p.add_argument("--batch_size", type=int, default=32)
    p.add_argument("--points", type=int, default=6500, help="points of a thinned scan (default: 6500)")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return guarded(
        "python -m demo.training.check",
        lambda: _check(p.parse_args(arguments)),
        interrupted="nothing was written",
        install="pip install '.[train]'",
    )


def _check(args: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        raise SceneError("This compares a GPU with the CPU, but PyTorch sees no CUDA device.")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # rooms first: their workers are forked, which CUDA does not like
        files = pack(Path(folder), SPLITS["validation"], args.count, max(1, args.count // args.jobs), args.jobs)
        facts, wrong = _measure(args, files, prepare(torch.device("cuda")), Path(folder))
    facts["seconds"] = round(time.perf_counter() - began, 1)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(json.dumps(facts | {"wrong": wrong}))
    return 1 if wrong else 0


def _measure(
    args: argparse.Namespace, files: list[Path], device: torch.device, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    config = write_config(folder / "config", args.mode)

    def learner() -> Learner:
        torch.manual_seed(0)
        loss = Loss(Prompts(), config.language_model.vocab_size, device)
        return Learner(new_model(config, device, seed=0), loss, device, hints=1.0)

    first = learner()
    chance = torch.Generator(device).manual_seed(0)
    maker = Maker(RoomStore.read(files, device), Prompts(), config.encoder, first.model.position, chance)
    facts: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    plain = replace(maker, store=RoomStore.read(files[:4], torch.device("cpu")))
    facts["geometry"], wrong = compare_geometry(maker, plain)
    facts["fused"] = triton_works(device)
    wrong += compare_convolutions(device) if facts["fused"] else ["Triton's kernels do not run here: see above."]
    thinned = replace(maker, points=args.points)
    facts["thinned"] = _speed(thinned, args.batch_size, learner())
    with Feeder(thinned, args.batch_size, 1, _caps(thinned, args.batch_size)) as feeder:
        batches = list(islice(feeder, STEPS))
    again, graphed = learner(), learner()
    runs = [(first, EagerStep(first, 1)), (again, EagerStep(again, 1)), (graphed, GraphStep(graphed, 1, batches[0]))]
    facts["steps"], different = compare_steps(runs, batches)
    facts["whole"] = _speed(maker, args.batch_size, graphed)
    return facts, wrong + different


def compare_convolutions(device: torch.device, fast: Arithmetic | None = None, rows: int = 5000) -> list[str]:
    """Output and gradients of the fused convolution in bf16 against the plain one in float32, by width."""
    said, dtype = [], torch.bfloat16 if device.type == "cuda" else torch.float32  # Triton's interpreter has no bf16
    chance = torch.Generator().manual_seed(0)
    table = torch.randint(0, 3 * rows, (rows, 27), generator=chance).clamp(max=rows).int().to(device)
    for width in (32, 48, 64, 96, 128):
        shapes = ((rows, width), (width, 27 * width), (width,), (rows, width))
        numbers = [torch.randn(shape, generator=chance).to(dtype).float().to(device) for shape in shapes]
        got = _convolved(fast or fused(), table, dtype, *numbers)
        want = _convolved(PLAIN, table, torch.float32, *numbers)
        error = max(float((a.float() - b).norm() / b.norm()) for a, b in zip(got, want, strict=True))
        if not error < 1e-2:
            said.append(f"The fused convolution of {width} channels is {error:.2g} off the plain one.")
    return said


def _convolved(
    arithmetic: Arithmetic, table: Tensor, dtype: torch.dtype, x: Tensor, weight: Tensor, bias: Tensor, probe: Tensor
) -> list[Tensor]:
    """Output and gradients; of a table drawn at random they are no convolution's, but both ways must say the same."""
    leaves = [x.to(dtype).requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    out = convolve_with(arithmetic, leaves[0], table, leaves[1], leaves[2])
    out.backward(probe.to(dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def compare_steps(runs: list[tuple[Learner, Step]], batches: Sequence[Batch]) -> tuple[dict[str, float], list[str]]:
    """Three learners of one state: the plain step, the plain step again, which says how much is chance, and another.

    Sums by atomics differ from run to run, and AdamW takes the sign of a tiny gradient for as much as that of a large
    one; so weights are measured by how far apart they are for the way that they went.
    """
    start = torch.cat([p.detach().flatten() for p in runs[0][0].parameters])
    ends, losses = [], []
    for learner, step in runs:
        learner.rate.fill_(RATE)
        losses.append(torch.stack([step(batch).clone() for batch in batches]))
        ends.append(torch.cat([p.detach().flatten() for p in learner.parameters]))
    way = float((ends[0] - start).norm())
    chance, apart = (float((end - ends[0]).norm()) / way for end in ends[1:])
    off = float(((losses[2] - losses[0]) / losses[0]).abs().max())
    said = []
    if not (off < 0.02 and apart < max(0.02, 3 * chance)):
        said.append(f"Captured steps are not the plain ones: losses {off:.2g} off, weights {apart:.2g} of their way.")
    return {"losses_off": off, "weights_apart": apart, "by_chance": chance}, said


def _caps(maker: Maker, size: int) -> Any:
    chance = random.Random(0)
    return find_caps((maker.batch(random_questions(chance, len(maker.store), size)) for _ in range(6)), maker.encoder)


def _speed(maker: Maker, size: int, learner: Learner) -> dict[str, Any]:
    """Milliseconds of a batch from one, two and three workers, of a step by kernels and as a graph; steps a second."""
    caps = _caps(maker, size)
    facts: dict[str, Any] = {"feeder_ms": {n: _milliseconds_fed(maker, size, caps, n) for n in (1, 2, 3)}}
    torch.cuda.reset_peak_memory_stats()
    with Feeder(maker, size, 2, caps, 2) as feeder:
        batches = iter(feeder)
        batch = next(batches)
        learner.rate.fill_(RATE)
        eager = EagerStep(learner, 1)
        eager(batch)
        facts["eager_ms"] = _milliseconds(lambda: eager(batch), 3)
        with feeder.paused():
            step = GraphStep(learner, 1, batch)
            step(batch)
            facts["graph_ms"] = _milliseconds(lambda: step(batch), 10)
        facts["together_ms"] = _milliseconds(lambda: step(next(batches)), 40)
    facts["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return facts


def _milliseconds_fed(maker: Maker, size: int, caps: Any, workers: int) -> float:
    with Feeder(maker, size, 3, caps, workers) as feeder:
        batches = iter(feeder)
        for _ in range(3 * workers):  # what was made while nobody looked
            next(batches)
        return _milliseconds(lambda: next(batches), 5 * workers)


def _milliseconds(work: Callable[[], Any], times: int) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return round(1000 * (time.perf_counter() - began) / times, 2)


if __name__ == "__main__":
    sys.exit(main())
