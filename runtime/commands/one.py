"""One scene: prepared, described, run, written."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TextIO

from runtime.commands import options, pictures, summary
from runtime.layout import write_layout
from runtime.manifest import Manifest
from runtime.pipeline import Pipeline
from runtime.recording import Recorder
from runtime.rope import normalize_coords
from runtime.scene import Scene


def run_scene(args: argparse.Namespace) -> int:
    """Run `--point_cloud` and write `--output`. Returns 0. Raises SceneError."""
    with options.load_pipeline(args) as pipeline:
        return _run(args, pipeline)


def _run(args: argparse.Namespace, pipeline: Pipeline) -> int:
    spoken = sys.stderr if args.json else sys.stdout
    request = options.request(args, pipeline.manifest)
    scene = pipeline.prepare(args.point_cloud, request)
    _describe(args, scene, pipeline.manifest, spoken)
    recorder = Recorder(pipeline.engines.backend, args.save_steps) if args.save_tensors else None
    stream = None if args.quiet or args.json else _print_now
    (result,) = pipeline.run([scene], request, on_text=stream, recorder=recorder)
    if stream is not None:
        print()
    write_layout(result.layout, args.output)
    if recorder is not None:
        recorder.save(args.save_tensors)
    warnings = pictures.draw(args, args.point_cloud, result.layout)
    if not args.quiet:
        for warning in (*summary.issues(result), *warnings):
            print(f"warning: {warning}", file=sys.stderr)
        print(f"{args.output}: {summary.line(result)}", file=spoken)
        if args.timings:
            print(summary.timings(result), file=spoken)
    if args.json:
        print(json.dumps(summary.to_json(args, result, pipeline.manifest.parity)))
    return 0


def _describe(args: argparse.Namespace, scene: Scene, manifest: Manifest, out: TextIO) -> None:
    """Everything worth knowing before the encoder runs."""
    if not args.quiet:
        if manifest.parity is not None:
            print(f"Parity of the bundle at export: {manifest.parity.verdict}.", file=out)
        for warning in scene.report.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if args.report:
        print("\n".join(scene.report.lines()), file=out)
    if os.environ.get("SPATIALLM_VERBOSE", "0").lower() in ("1", "true", "yes"):
        _print_host_side(manifest, scene, out)


def _print_host_side(manifest: Manifest, scene: Scene, out: TextIO) -> None:
    """What the reference prints of the host's part in the position encoding."""
    position = manifest.position
    print(f"[Config] VLM_PE = {position.vlm_pe} (from bundle)", file=out)
    if position.points is not None:
        print(f"[Config] PCD_PE_Merge_Rule = {position.merge_rule}", file=out)
        print(f"[3D_RoPE] Initialized with PCD_PE_Merge_Rule={position.merge_rule}", file=out)
        print(normalize_coords(scene.patch_coords).describe(), file=out)


def _print_now(text: str) -> None:
    """A terminal that cannot show a character shows a question mark, and the run goes on. Control characters are
    escaped: they would command the terminal."""
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    print(text.encode(encoding, "replace").decode(encoding), end="", flush=True)
