"""The command line of `run_engine.py`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from runtime.decode import Sampling
from runtime.engines import BACKENDS
from runtime.errors import SceneError
from runtime.layout import ENDINGS, write_layout
from runtime.manifest import GenerationSpec, Manifest
from runtime.pipeline import Pipeline
from runtime.prompt import CATEGORIES, DETECT_TYPES
from runtime.recording import Recorder
from runtime.rope import normalize_coords
from runtime.scene import MAX_NEW_TOKENS, Request, Result

UPSTREAM_TOP_K, UPSTREAM_TOP_P = 10, 0.95
EPILOG = """\
examples:
  python run_engine.py --bundle bundle --point_cloud scene.ply --output scene.txt
  python run_engine.py -m bundle -p scene.ply -o scene.json -d object -c bed nightstand --timings
  python run_engine.py -m bundle -p scene.ply -o scene.txt --json | jq .entities

SPATIALLM_VERBOSE=1 prints how the point coordinates were normalized.
"""


def parser() -> argparse.ArgumentParser:
    """All options of the runtime."""
    p = argparse.ArgumentParser(
        prog="run_engine.py",
        description="Run a SpatialLM bundle on a point cloud: walls, doors, windows and boxes come out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-m", "--bundle", required=True, type=Path, help="folder that export_model.py wrote")
    p.add_argument("-p", "--point_cloud", required=True, type=Path, help="scene: a .ply file, z up, in metres")
    p.add_argument(
        "-o", "--output", required=True, type=Path, help="layout to write: .txt (upstream's format) or .json"
    )
    p.add_argument("-d", "--detect_type", default="all", choices=DETECT_TYPES, help="what to look for (default: all)")
    p.add_argument(
        "-c", "--category", nargs="+", default=[], choices=CATEGORIES, metavar="NAME",
        help=f"box categories to look for (default: all). Known: {', '.join(CATEGORIES)}",
    )  # fmt: skip
    p.add_argument(
        "--no_cleanup", action="store_true", help="take the points as they are: no voxel mean, no outlier removal"
    )
    p.add_argument(
        "--temperature", type=float, default=0.0, help="0 chooses the likeliest token, above 0 draws (default: 0)"
    )
    p.add_argument("--top_k", type=int, help="draw from the k likeliest tokens (default: checkpoint, else 10)")
    p.add_argument("--top_p", type=float, help="draw from the likeliest that sum to p (default: checkpoint, else 0.95)")
    p.add_argument("--seed", type=int, help="makes drawing repeatable")
    p.add_argument("--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help=f"(default: {MAX_NEW_TOKENS})")
    p.add_argument("--backend", default=BACKENDS[0], choices=BACKENDS, help=f"(default: {BACKENDS[0]})")
    p.add_argument("--threads", type=int, help="threads of the back end (default: one per core)")
    p.add_argument("--no_verify", action="store_true", help="check the bundle's file sizes only, not their digests")
    p.add_argument("--timings", action="store_true", help="print milliseconds by stage and tokens per second")
    p.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    p.add_argument(
        "--json", action="store_true", help="print one machine-readable summary on stdout and nothing else there"
    )
    p.add_argument("--save_tensors", type=Path, metavar="FILE.npz", help="keep what entered and left each graph")
    p.add_argument("--save_steps", type=int, default=8, help="decode steps that --save_tensors keeps (default: 8)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one scene: 0 when the layout stands, 2 with one sentence on stderr when it cannot."""
    args = parser().parse_args(arguments)
    try:
        _run(args)
    except SceneError as error:
        print(f"run_engine.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run_engine.py: interrupted; no layout was written.", file=sys.stderr)
        return 130
    except MemoryError as error:
        print(f"run_engine.py: not enough memory ({error}). Crop the scene, or free some.", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    _check(args)
    spoken = sys.stderr if args.json else sys.stdout
    pipeline = Pipeline.load(args.bundle, backend=args.backend, threads=args.threads, verify=not args.no_verify)
    recorder = Recorder(pipeline.engines.backend, args.save_steps) if args.save_tensors else None
    stream = None if args.quiet or args.json else _print_now
    result = pipeline(args.point_cloud, _request(args, pipeline.manifest), on_text=stream, recorder=recorder)
    if stream is not None:
        print()
    write_layout(result.layout, args.output)
    if recorder is not None:
        recorder.save(args.save_tensors)
    if _verbose():
        _print_host_side(pipeline.manifest, result, spoken)
    if not args.quiet:
        _report(args, result, spoken)
    if args.json:
        print(json.dumps(_summary(args, result)))


def _check(args: argparse.Namespace) -> None:
    """What can be refused before any work is done."""
    if args.output.suffix.lower() not in ENDINGS:
        raise SceneError(
            f"{args.output}: the ending is {args.output.suffix!r}, but {' or '.join(ENDINGS)} was expected."
        )
    for path in filter(None, (args.output, args.save_tensors)):
        if path.is_dir() or not path.resolve().parent.is_dir() or not os.access(path.resolve().parent, os.W_OK):
            raise SceneError(
                f"{path}: cannot be written there. Name a file in a folder that exists and can be written to."
            )
    lowest = {"max_new_tokens": 1, "save_steps": 0, "temperature": 0.0, "top_k": 0, "seed": 0, "threads": 1}
    for name, low in lowest.items():
        if (value := getattr(args, name)) is not None and not low <= value < float("inf"):
            raise SceneError(f"--{name} is {value}, but at least {low} is needed.")
    if args.top_p is not None and not 0.0 < args.top_p <= 1.0:
        raise SceneError(f"--top_p is {args.top_p}, but it is a share of probability: above 0, at most 1.")


def _request(args: argparse.Namespace, manifest: Manifest) -> Request:
    return Request(
        detect_type=args.detect_type,
        categories=tuple(args.category),
        clean_up=not args.no_cleanup,
        max_new_tokens=args.max_new_tokens,
        sampling=_sampling(args, manifest.generation),
    )


def _sampling(args: argparse.Namespace, checkpoint: GenerationSpec) -> Sampling:
    """Flags first, then what the checkpoint says, then upstream's defaults."""

    def first(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    return Sampling(
        temperature=args.temperature,
        top_k=first(args.top_k, checkpoint.top_k, UPSTREAM_TOP_K),
        top_p=first(args.top_p, checkpoint.top_p, UPSTREAM_TOP_P),
        repetition_penalty=first(checkpoint.repetition_penalty, 1.0),
        seed=args.seed,
    )


def _print_now(text: str) -> None:
    """A terminal that cannot show a character shows a question mark, and the run goes on."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="", flush=True)


def _verbose() -> bool:
    return os.environ.get("SPATIALLM_VERBOSE", "0").lower() in ("1", "true", "yes")


def _print_host_side(manifest: Manifest, result: Result, out: TextIO) -> None:
    """What the reference prints of the host's part in the position encoding."""
    position = manifest.position
    print(f"[Config] VLM_PE = {position.vlm_pe} (from bundle)", file=out)
    if position.points is not None:
        print(f"[Config] PCD_PE_Merge_Rule = {position.merge_rule}", file=out)
        print(f"[3D_RoPE] Initialized with PCD_PE_Merge_Rule={position.merge_rule}", file=out)
        print(normalize_coords(result.patch_coords).describe(), file=out)


def _report(args: argparse.Namespace, result: Result, out: TextIO) -> None:
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for issue in result.layout.issues:
        print(f"warning: line {issue.line} of the generated text was not used ({issue.reason})", file=sys.stderr)
    counts = ", ".join(f"{count} {name}" for name, count in _entities(result).items())
    print(f"{args.output}: {counts} ({len(result.tokens)} tokens, ended by {result.stopped_by}).", file=out)
    if args.timings:
        print(_timings(result), file=out)


def _timings(result: Result) -> str:
    width = max(map(len, result.milliseconds))
    lines = [f"  {stage:<{width}} {value:10.1f} ms" for stage, value in result.milliseconds.items()]
    lines.append(f"  {'total':<{width}} {sum(result.milliseconds.values()):10.1f} ms")
    return "\n".join([*lines, f"  {_tokens_per_second(result):.1f} tokens/s while decoding"])


def _tokens_per_second(result: Result) -> float:
    steps = len(result.tokens) - 1  # the first token comes with prefill
    return steps / (result.milliseconds["decode"] / 1e3) if steps else 0.0


def _entities(result: Result) -> dict[str, int]:
    layout = result.layout
    return {name: len(getattr(layout, name)) for name in ("walls", "doors", "windows", "boxes")}


def _summary(args: argparse.Namespace, result: Result) -> dict[str, Any]:
    return {
        "bundle": str(args.bundle),
        "point_cloud": str(args.point_cloud),
        "output": str(args.output),
        "entities": _entities(result),
        "points": result.points,
        "voxels": result.voxels,
        "point_tokens": result.point_tokens,
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": len(result.tokens),
        "stopped_by": result.stopped_by,
        "text": result.text,
        "issues": [{"line": i.line, "text": i.text, "reason": i.reason} for i in result.layout.issues],
        "warnings": list(result.warnings),
        "milliseconds": {stage: round(value, 3) for stage, value in result.milliseconds.items()},
        "tokens_per_second": round(_tokens_per_second(result), 2),
    }
