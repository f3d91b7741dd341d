"""The persistent decode kernel on a GPU: right or not, how fast, where the time goes.

    python -m benchmarks.gpu.decode_step --output out/decode_step               # all of it: about 80 seconds
    python -m benchmarks.gpu.decode_step --output out/decode_step --budget 60   # what matters most comes first
    python -m benchmarks.gpu.decode_step --output out/decode_step --variant qwen:profile=1 --variant llama:flight=49152
    python -m benchmarks.gpu.decode_step --output out/decode_step --variant qwen: --context 256 776 2048 8192
    python -m pytest -m gpu tests/gpu/test_decode_step.py                       # small shapes against float64

What the card can do at best comes first: plain reads, reads through the ring, barriers of the grid, and values with
turns, alone and beside a stream of weights. Then variants of the kernel, each compiled by nvcc and run in a process of
its own with a time limit, so that nothing one does can stop the others. A line of JSON each, on the terminal and in
log.jsonl, and together in decode_step.json: the largest relative error of the logits against PyTorch's float32 step
(`plain`: that of PyTorch's half precision), milliseconds a token with 32 tokens in one launch (`loop`) and in 32
(`launches`), and with profile=1 the cycles of each part of each phase: mean, of the fastest block, of the slowest.
Needs nvcc and PyTorch. Weights are random; the sizes are those of the published models.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import command_line, describe_gpu, say, write_json
from plugins.decode_step.models import MODELS
from plugins.decode_step.sizes import Sizes, Tuning, source
from plugins.source import inlined, with_constants

NVCC = "/usr/local/cuda/bin/nvcc"  # where it is when it is not on the path
VARIANTS = [
    "qwen:",
    "llama:",
    "qwen:peek=1,gather=1",
    "llama:peek=1,gather=1",
    "qwen:peek=1,gather=1,profile=1",
    "qwen:peek=1",
    "qwen:profile=1",
    "qwen:gather=1",
    "qwen:peek=1,gather=1,backoff=100",
    "llama:profile=1",
]


def main() -> None:
    args = arguments()
    if args.child is not None:
        child(args)
        return
    args.output.mkdir(parents=True, exist_ok=True)
    variants = [v for v in args.variant or VARIANTS if args.only is None or v.startswith(args.only)]
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(args.compilers) as pool:
        names = ["probes", *variants]
        cubins = dict(zip(names, pool.map(lambda v: compiled(v, args), names), strict=True))
    say(args.output, {"compiled": len(cubins), "seconds": round(time.perf_counter() - began, 1)})
    measure(args, variants, cubins, began + args.budget)


def measure(args: argparse.Namespace, variants: list[str], cubins: dict[str, Path | str], end: float) -> None:
    """The card, then each variant at each context; decode_step.json is whole after each."""
    result = {"benchmark": "decode_step", "command": command_line("decode_step"), **describe_gpu()}
    result["probes"] = measured(args, "probes", cubins["probes"], 1)
    say(args.output, {"variant": "probes", **result["probes"]})
    result["contexts"] = {str(context): {} for context in args.context}
    for context, variant in itertools.product(args.context, variants):
        late = {"left_out": f"after {args.budget} s"} if time.perf_counter() > end else None
        facts = late or measured(args, variant, cubins[variant], context)
        say(args.output, {"context": context, "variant": variant, **facts})
        result["contexts"][str(context)][variant] = facts
        write_json(args.output / "decode_step.json", result)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the log and the compiled kernels")
    parser.add_argument("--variant", action="append", help="MODEL:NAME=VALUE,... (default: a list of them)")
    parser.add_argument("--only", help="variants that begin so")
    parser.add_argument("--context", type=int, nargs="+", default=[776], help="tokens before the first step")
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--compilers", type=int, default=12, help="compilations at a time")
    parser.add_argument("--limit", type=float, default=40, help="seconds for one variant")
    parser.add_argument("--budget", type=float, default=150, help="seconds after which no variant is begun")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cubin", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.context) < 1:
        parser.error(f"--context {min(args.context)}: at least one token was expected before the first step")
    args.nvcc = shutil.which("nvcc") or shutil.which(NVCC)
    if args.nvcc is None and args.child is None:
        parser.error(
            f"nvcc was found neither on the path nor as {NVCC}. Install the CUDA toolkit, or add nvcc to the path"
        )
    return args


def parsed(variant: str) -> tuple[str, Sizes, Tuning]:
    """Model name, sizes and tuning of "model:name=value,..."."""
    model, _, rest = variant.partition(":")
    given = {k: int(v) for k, v in (item.split("=") for item in rest.split(",") if item)}
    return model, MODELS[model], Tuning(**given)


def compiled(variant: str, args: argparse.Namespace) -> Path | str:
    """The cubin's path, or the compiler's words."""
    if variant == "probes":
        constants: dict[str, int | float] = {
            "WARPS": 16,
            "RING_BYTES": 22 * 8192,
            "HALF_IS_BF16": 0,
            "BACKOFF": 0,
            "COPIES": 1,
            "PROFILE": 0,
            "CHECKED": 0,
        }
        text = with_constants(inlined(Path(__file__).with_name("probes.cu")), constants)
    else:
        text = source(*parsed(variant)[1:])
    name = hashlib.sha256((text + args.architecture).encode()).hexdigest()[:16]
    path = args.output / f"{name}.cubin"
    if path.exists():
        return path
    path.with_suffix(".cu").write_text(text)
    options = ["-std=c++17", f"-arch={args.architecture}", "--cubin", "-Xptxas", "-v", "-lineinfo"]
    done = subprocess.run(
        [args.nvcc, *options, "-o", str(path), str(path.with_suffix(".cu"))],
        capture_output=True,
        text=True,
        check=False,
    )
    path.with_suffix(".txt").write_text(f"{variant}\n{done.stderr}")
    return path if done.returncode == 0 else done.stderr[-2000:]


def measured(args: argparse.Namespace, variant: str, cubin: Path | str, context: int) -> dict[str, Any]:
    """What a process of its own found, or why it found nothing."""
    if isinstance(cubin, str):
        return {"not_compiled": cubin}
    command = [sys.executable, "-m", "benchmarks.gpu.decode_step", "--child", variant, "--cubin", str(cubin)]
    command += ["--output", str(args.output), "--context", str(context)]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.limit, check=False)
        lines, error, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as expired:
        lines, error, code = text_of(expired.stdout), text_of(expired.stderr), "timed out"
    facts: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 1)}
    for line in lines.splitlines():
        if line.startswith("{"):
            facts.update(json.loads(line))
    if code != 0:
        facts.update(failed=code, words=error[-1500:])
    return facts


def text_of(stream: str | bytes | None) -> str:
    return stream.decode(errors="replace") if isinstance(stream, bytes) else stream or ""


def child(args: argparse.Namespace) -> None:
    """What one process measures; every line it prints is kept even if the next part fails."""
    from benchmarks.gpu import decode_step_parts as parts

    if args.child == "probes":
        steps = parts.Probes(args.cubin.read_bytes()).parts()
    else:
        _, sizes, tuning = parsed(args.child)
        steps = parts.Variant(
            sizes, tuning, args.cubin.read_bytes(), args.context[0], whole=args.child.endswith(":")
        ).parts()
    for name, part in steps:
        print(json.dumps({name: part()}), flush=True)


if __name__ == "__main__":
    main()
