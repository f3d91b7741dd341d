"""Record one rung of the parity ladder where it runs, without torch and onnx: `python -m runtime.record --help`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.door import guarded
from runtime.engines import BACKENDS
from runtime.errors import SceneError
from runtime.outputs import check_output
from runtime.pipeline import Pipeline
from runtime.rung import Plan, record_rung
from runtime.rung.taps import record_taps
from runtime.scene import Request

EPILOG = """\
example: record on the robot, compare on the desk
  python -m runtime.record --bundle bundle --point_cloud scene.ply --backend tensorrt --output rung.npz
  python -m export.parity  --bundle bundle --model CHECKPOINT --point_cloud scene.ply --against rung.npz
"""


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(
        prog="python -m runtime.record",
        description="Run a scene through a bundle and keep what the parity ladder compares.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-m", "--bundle", type=Path, required=True)
    p.add_argument("-p", "--point_cloud", type=Path, required=True)
    p.add_argument("-o", "--output", type=Path, required=True, help="the recording, an .npz")
    p.add_argument("--backend", default=BACKENDS[0], choices=BACKENDS, help=f"(default: {BACKENDS[0]})")
    p.add_argument("--device", help="cpu, or cuda:N")
    p.add_argument("--rung", help="name of the rung (default: the back end and its device)")
    p.add_argument("--taps", action="store_true",
                   help="queries and keys of the prompt too; for bundles exported with --taps")  # fmt: skip
    p.add_argument("--no_cleanup", action="store_true", help="take the points as they are")
    p.add_argument("--forced_steps", type=int, default=Plan().forced_steps, help="(default: %(default)s)")
    p.add_argument("--free_tokens", type=int, default=Plan().free_tokens, help="(default: %(default)s)")
    p.add_argument("-q", "--quiet", action="store_true")
    p.add_argument("--json", action="store_true", help="print the recording's facts as one line")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Record: 0 when the file stands, 2 with one sentence on stderr when it cannot."""
    return guarded(
        "python -m runtime.record",
        lambda: _record(parser().parse_args(arguments)),
        interrupted="nothing was written",
        install="pip install '.[onnxruntime]'",
    )


def _record(args: argparse.Namespace) -> int:
    if args.output.suffix != ".npz":
        raise SceneError(f"{args.output}: a recording is an .npz file; give it that ending.")
    for name in ("forced_steps", "free_tokens"):
        if getattr(args, name) < 1:
            raise SceneError(f"--{name} is {getattr(args, name)}, but at least 1 is needed.")
    if args.rung is not None and not (args.rung and args.rung.isprintable()):
        raise SceneError(f"--rung is {args.rung!a}, but a name of printable characters was expected.")
    check_output(args.output, bundle=args.bundle, read={"the scene": args.point_cloud})
    with Pipeline.load(args.bundle, backend=args.backend, device=args.device) as pipeline:
        if pipeline.note and not args.quiet:
            print(f"note: {pipeline.note}", file=sys.stderr)
        rung = args.rung or rung_name(pipeline)
        plan = Plan(forced_steps=args.forced_steps, free_tokens=args.free_tokens)
        request = Request(clean_up=not args.no_cleanup)
        recording = record_rung(pipeline, args.point_cloud, request, plan, rung)
        if args.taps:
            taps = record_taps(pipeline, pipeline.prepare(args.point_cloud, request))
            recording = dataclasses.replace(recording, arrays=recording.arrays | taps)
    recording.save(args.output)
    if args.json:
        print(json.dumps(recording.facts))
    elif not args.quiet:
        print(f"{args.output}: {rung}, {len(recording.arrays['forced.ids'])} forced steps, "
              f"{len(recording.arrays['free.tokens'])} tokens.")  # fmt: skip
    return 0


def rung_name(pipeline: Pipeline) -> str:
    """The back end and where it computes, e.g. "onnxruntime cpu" or "tensorrt cuda"."""
    backend = pipeline.engines.backend
    return f"{backend.name} {'cuda' if hasattr(backend, 'gpu') else 'cpu'}"
