"""Prefill and decode of the language model in the plugin library, on a GPU: right or not, how fast, where time goes.

    python -m benchmarks.gpu.prefill_step --output out/prefill_step              # both models in fp16: a minute
    python -m benchmarks.gpu.prefill_step --output out/prefill_step --model qwen --rows 776 --decode 1x776 --profile
    python -m benchmarks.gpu.prefill_step --output out/prefill_step --model llama --precision bf16 --decode 4x776 8x776
    python -m pytest -m gpu tests/gpu/test_language_model.py                       # small shapes against float64

The operators are called in the library of `make plugins` through ctypes, without TensorRT. Sizes are those of the
published models, weights are random. Each model has a process of its own with a time limit. A line of JSON for each
result as it comes, on the terminal and in log.jsonl, and together in prefill_step.json, which is the last line.

Of a prompt of S rows: milliseconds launched one by one and as a CUDA graph (medians), TFLOP/s, the cosine of logits and
of the last row of the cache against PyTorch in float32; and the same of PyTorch in half precision with its fused
attention, captured in a CUDA graph (with --compile compiled too). Of a step of B sequences over M rows: milliseconds
in a CUDA graph, and what part of a plain read's bandwidth that is; one sequence both ways, by the general operator and
by the one kernel. --profile lists the kernels with their counts and microseconds, and the gaps between them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import command_line, describe_gpu, say, write_json
from plugins.decode_step.models import MODELS
from plugins.library import BUILD, library_path

ROWS = (776, 256, 2048)
DECODE = ("1x776", "4x776", "8x776", "1x256", "1x2048", "1x8192")


def main() -> int:
    args = arguments()
    if args.child is not None:
        child(args)
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    facts = {"benchmark": "prefill_step", "command": command_line("prefill_step"), **describe_gpu()}
    began = time.perf_counter()
    for model in args.model:
        for precision in args.precision:
            name = f"{model}:{precision}"
            facts[name] = {}
            for line in measured(args, name):
                say(args.output, {"model": name, **line})
                facts[name].update(line)
                write_json(args.output / "prefill_step.json", facts)
    facts["seconds"] = round(time.perf_counter() - began, 1)
    write_json(args.output / "prefill_step.json", facts)
    print(json.dumps(facts), flush=True)
    return int(any("failed" in part or "error" in part for part in parts_of(facts)))


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", type=Path, required=True, help="folder for the results")
    p.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    p.add_argument("--precision", nargs="+", choices=("fp16", "bf16"), default=["fp16"])
    p.add_argument("--rows", nargs="*", type=int, default=list(ROWS), help="positions of the prompt")
    p.add_argument("--batch", type=int, default=1, help="prompts in a prefill (default: 1)")
    p.add_argument("--decode", nargs="*", type=pair, default=list(map(pair, DECODE)), metavar="BxM")
    p.add_argument("--compile", action="store_true", help="PyTorch compiled too, which takes a minute")
    p.add_argument("--profile", action="store_true", help="kernels by name, with the gaps between them")
    p.add_argument("--limit", type=float, default=120, help="seconds for one model (default: 120)")
    p.add_argument("--child", help=argparse.SUPPRESS)
    args = p.parse_args()
    if min([args.batch, *args.rows, *(count for both in args.decode for count in both)]) < 1:
        p.error("rows, batch and BxM were expected to be at least 1")
    if not library_path().is_file():
        p.error(f"the plugin library {library_path()} is not there. Build it: {BUILD}")
    return args


def parts_of(facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each model, and each of its parts."""
    for name in facts:
        if ":" in name:
            yield facts[name]
            yield from (part for part in facts[name].values() if isinstance(part, dict))


def pair(text: str) -> tuple[int, int]:
    """ "4x776": 4 sequences over 776 rows. Raises ValueError."""
    batch, _, rows = text.partition("x")
    return int(batch), int(rows)


def measured(args: argparse.Namespace, name: str) -> Iterator[dict[str, Any]]:
    """What a process of its own finds, part by part; why it ended, if not as it should."""
    options = ["--rows", *map(str, args.rows), "--batch", str(args.batch)]
    options += ["--decode", *(f"{batch}x{rows}" for batch, rows in args.decode)]
    options += [flag for flag, on in (("--compile", args.compile), ("--profile", args.profile)) if on]
    command = [sys.executable, "-m", "benchmarks.gpu.prefill_step", "--child", name, "--output", str(args.output)]
    errors = args.output / f"{name.replace(':', '-')}.err"
    with errors.open("w") as stderr:
        running = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=stderr, text=True)
        timer = threading.Timer(args.limit, running.kill)
        timer.start()
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        code = running.wait()
    late = not timer.is_alive()
    timer.cancel()
    if code != 0:
        said = errors.read_text()[-1500:]
        yield {"failed": f"after {args.limit:g} s" if late else code, "words": said}


def child(args: argparse.Namespace) -> None:
    """A line for each part; every line is kept whatever comes of the next."""
    import torch

    from benchmarks.gpu.prefill_step_parts import Measured

    model, _, precision = args.child.partition(":")
    sizes = dataclasses.replace(MODELS[model], bf16=precision == "bf16")
    with torch.no_grad():
        for name, part in Measured(sizes, args).parts():
            began = time.perf_counter()
            try:
                facts = part()
            except RuntimeError as error:  # of the library or of CUDA; what comes next may still be worth having
                facts = {"error": str(error)[:800]}
            print(json.dumps({name: {**facts, "seconds": round(time.perf_counter() - began, 2)}}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
