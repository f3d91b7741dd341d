"""What quantized weights cost and give: python -m benchmarks.quantization --model CHECKPOINT

Exports the checkpoint in float32 and in each preset (or takes --bundle NAME=FOLDER), opens each bundle's prefill and
decode in a process of its own, and asks them in turn, round by round, so that a slow moment of the machine meets all.
Speed: medians over rounds, ratios within the rounds, and the best round, which says more on a busy machine. Quality:
the logits along the greedy text of the float32 bundle, each bundle being fed that text. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.language_model import our_runtime
from benchmarks.machine import cores, describe, peak_memory_gb
from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.manifest import Manifest

BASE = "fp32"
PRESETS = ("int8", "int4")


def export(model: Path, folder: Path, presets: list[str], block_size: int | None) -> dict[str, Path]:
    """Bundles of the checkpoint by name: float32 and every preset as `export_model.py` writes it."""
    from export.bundle import ExportOptions, write_bundle
    from export.checkpoint import open_checkpoint
    from export.quantization.options import DEFAULT_BLOCK_SIZE, quantization_spec

    checkpoint, bundles = open_checkpoint(model), {}
    for name in (BASE, *presets):
        print(f"exporting {name}", file=sys.stderr)
        quantization = None if name == BASE else quantization_spec(name, block_size or DEFAULT_BLOCK_SIZE)
        write_bundle(checkpoint, folder / name, ExportOptions(quantization=quantization))
        bundles[name] = folder / name
    return bundles


def serve(pipe: Connection, folder: str, points: int, threads: int) -> None:
    """One bundle in its process. A request is the tokens to feed after prefill, or how many to choose greedily."""
    started = time.perf_counter()
    start = our_runtime(folder, points, threads)
    pipe.send({"load_s": time.perf_counter() - started, "loaded": memory_gb()})
    while (request := pipe.recv()) is not None:
        pipe.send(run(start, **request) | {"memory": memory_gb(), "peak_memory_gb": peak_memory_gb()})


def run(start: Any, forced: list[int] | None, count: int) -> dict[str, Any]:
    """Prefill and `count` steps: the tokens fed, each step's milliseconds, and the logits [count, V] after each."""
    began = time.perf_counter()
    logits, step = start()
    prefill_ms, tokens, steps = (time.perf_counter() - began) * 1e3, [], []
    rows = np.empty((count, logits.shape[-1]), np.float32)
    for place in range(count):
        tokens.append(int(logits.argmax()) if forced is None else forced[place])
        began = time.perf_counter()
        logits = step(np.array([[tokens[-1]]], np.int32))
        steps.append((time.perf_counter() - began) * 1e3)
        rows[place] = logits[0]
    return {"prefill_ms": prefill_ms, "steps_ms": steps, "tokens": tokens, "logits": rows}


def memory_gb() -> dict[str, float]:
    """Memory of this process now: its own, and pages of mapped files, which the system can drop and read again."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kilobytes = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"own_gb": kilobytes["RssAnon"] / 1e6, "mapped_gb": kilobytes["RssFile"] / 1e6}


@contextmanager
def served(
    bundles: dict[str, Path], points: int, threads: int
) -> Iterator[dict[str, tuple[Connection, dict[str, Any]]]]:
    """A process for each bundle: its pipe, and what it said when it had loaded. Loaded one after another."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, folder in bundles.items():
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, str(folder), points, threads), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes[name] = (ours, ours.recv())
    try:
        yield pipes
    finally:
        for pipe, _ in pipes.values():
            pipe.send(None)
        for process in processes:
            process.join()


def ask(pipe: Connection, forced: list[int] | None, count: int) -> dict[str, Any]:
    pipe.send({"forced": forced, "count": count})
    answer: dict[str, Any] = pipe.recv()
    return answer


def quality(logits: Array, want: Array) -> dict[str, float]:
    """Logits [N, V] against those of float32, at N places of the same text."""
    got, true = logits.astype(np.float64), want.astype(np.float64)
    cosine = (got * true).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(true, axis=-1)
    chances, wanted = softmax(got), softmax(true)
    divergence = (wanted * (np.log(wanted + 1e-30) - np.log(chances + 1e-30))).sum(-1)
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "tokens_kept": float((got.argmax(-1) == true.argmax(-1)).mean()),
        "kl_divergence_mean": float(divergence.mean()),
    }


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    chances: Array = powers / powers.sum(-1, keepdims=True)
    return chances


def measure(bundles: dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    """Quality in the first round, which also warms up; speed in the others."""
    with served(bundles, args.points, args.threads) as pipes:
        base = ask(pipes[BASE][0], None, args.tokens)
        first = {name: ask(pipe, base["tokens"], args.tokens) for name, (pipe, _) in pipes.items()}
        rounds = [
            {name: ask(pipe, base["tokens"], args.steps) for name, (pipe, _) in pipes.items()}
            for _ in range(args.rounds)
        ]
        return {
            name: {
                **size(bundles[name]),
                **speed([answers[name] for answers in rounds], [answers[BASE] for answers in rounds]),
                **quality(first[name]["logits"], base["logits"]),
                "load_s": told["load_s"],
                "peak_memory_gb": rounds[-1][name]["peak_memory_gb"],
                **rounds[-1][name]["memory"],
            }
            for name, (_, told) in pipes.items()
        }


def size(folder: Path) -> dict[str, Any]:
    """Bytes of the bundle and of the file that holds the language model, and how it was quantized."""
    manifest = Manifest.read(folder)
    file = manifest.weights["decode"]
    total = sum(record.bytes for record in Bundle.open(folder, verify=False).manifest.files.values())
    facts = {"bundle_gb": total / 1e9, "language_model_gb": manifest.files[file].bytes / 1e9}
    quantization = manifest.quantization
    return facts | (
        {} if quantization is None else {"block_size": quantization.block_size, "head_bits": quantization.head or 32}
    )


def speed(own: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, float]:
    """Medians and best over the rounds; the ratios are above 1 where the bundle is faster than float32."""
    step, base_step = ([statistics.median(answer["steps_ms"]) for answer in answers] for answers in (own, base))
    prefill, base_prefill = ([answer["prefill_ms"] for answer in answers] for answers in (own, base))
    return {
        "decode_tokens_per_s": 1e3 / statistics.median(step),
        "decode_tokens_per_s_best": 1e3 / min(step),
        "decode_times_faster": statistics.median(b / o for o, b in zip(step, base_step, strict=True)),
        "decode_times_faster_best": min(base_step) / min(step),
        "prefill_ms": statistics.median(prefill),
        "prefill_ms_best": min(prefill),
        "prefill_times_faster": statistics.median(b / o for o, b in zip(prefill, base_prefill, strict=True)),
        "prefill_times_faster_best": min(base_prefill) / min(prefill),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, help="checkpoint to export")
    p.add_argument("--bundle", nargs="+", default=[], metavar="NAME=FOLDER", help="bundles instead; one is named fp32")
    p.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    p.add_argument("--block_size", type=int, help="(default: that of export_model.py)")
    p.add_argument("--tokens", type=int, default=128, help="length of the text for the quality (default: 128)")
    p.add_argument("--steps", type=int, default=32, help="decode steps of a round (default: 32)")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--points", type=int, default=556, help="point tokens in the prompt, beside 220 of text")
    p.add_argument("--threads", type=int, default=cores())
    args = p.parse_args()
    args.steps = min(args.steps, args.tokens)
    given = {name: Path(folder) for name, _, folder in (item.partition("=") for item in args.bundle)}
    if not args.model and BASE not in given:
        p.error(f"name --model, or --bundle {BASE}=FOLDER and others")
    with tempfile.TemporaryDirectory() as folder:
        bundles = given or export(args.model, Path(folder), args.presets, args.block_size)
        report = measure(bundles, args)
    for name, facts in report.items():
        print(f"{name:6s}", " ".join(f"{key} {round(value, 4)}" for key, value in facts.items()), file=sys.stderr)
    settings = {key: getattr(args, key) for key in ("tokens", "steps", "rounds", "points", "threads")}
    print(json.dumps({"benchmark": "quantization", **describe(), **settings, "bundles": report}))


if __name__ == "__main__":
    main()
