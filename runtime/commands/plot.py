"""Draw a layout that exists: `python -m runtime.plot --help` explains the options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.door import guarded
from runtime.errors import SceneError
from runtime.layout import read_layout
from runtime.outputs import check_output
from runtime.pictures import (
    RERUN_ENDING,
    check_ending,
    check_rerun_ending,
    need,
    plot_layout,
    scores_are_possible,
    write_plot,
    write_rerun,
)
from runtime.points import read_point_cloud

PROGRAM = "python -m runtime.plot"
EPILOG = """\
examples:
  python -m runtime.plot --point_cloud scene.ply --layout scene.txt --output scene.png
  python -m runtime.plot --point_cloud scene.ply --layout scene.txt --ground_truth truth.txt --output scene.pdf
  python -m runtime.plot --point_cloud scene.ply --layout scene.txt --output scene.rrd
"""


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Draw a layout over its point cloud: from above and from a corner.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-p", "--point_cloud", type=Path, help="scene (default: draw the layout alone)")
    p.add_argument("-l", "--layout", type=Path, required=True, help="layout, .txt or .json")
    p.add_argument("-t", "--ground_truth", type=Path, help="true layout, drawn beside the other, with scores")
    p.add_argument("-o", "--output", type=Path, required=True, help=".png, .pdf or .svg; .rrd for the Rerun viewer")
    p.add_argument("--scale", type=float, help="metres per unit of the scene, e.g. 0.001 for millimetres")
    p.add_argument("--title", help="(default: the scene's name)")
    p.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw: 0 when the picture stands, 2 with one sentence on stderr when it cannot."""
    return guarded(
        PROGRAM,
        lambda: _draw(parser().parse_args(arguments)),
        interrupted="nothing was written",
        install="pip install '.[plot]'",
    )


def _draw(args: argparse.Namespace) -> int:
    _check(args)
    layout = read_layout(args.layout)
    cloud = None if args.point_cloud is None else read_point_cloud(args.point_cloud, scale=args.scale)
    warnings = [] if cloud is None else list(cloud.warnings)
    if args.output.suffix.lower() == RERUN_ENDING:
        assert cloud is not None, "checked"
        write_rerun(layout, cloud, args.output)
    else:
        truth = None if args.ground_truth is None else read_layout(args.ground_truth)
        if truth is not None and not scores_are_possible():
            warnings.append("the picture shows no scores, which need shapely. Install it: pip install '.[eval]'")
        title = args.title or (args.point_cloud or args.layout).stem
        write_plot(plot_layout(layout, cloud, truth, title=title), args.output)
    if not args.quiet:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(args.output)
    return 0


def _check(args: argparse.Namespace) -> None:
    _check_kind(args)
    if args.scale is not None and args.point_cloud is None:
        raise SceneError("--scale is of the scene's points, but no --point_cloud is given. Give it, or leave it out.")
    read = {"the scene": args.point_cloud, "the layout": args.layout, "the ground truth": args.ground_truth}
    check_output(args.output, read=read)


def _check_kind(args: argparse.Namespace) -> None:
    if args.output.suffix.lower() == RERUN_ENDING:
        check_rerun_ending(args.output)
        if args.point_cloud is None:
            raise SceneError(f"{args.output}: a recording shows the points too. Give --point_cloud.")
        if args.ground_truth is not None:
            raise SceneError("--ground_truth is drawn in pictures only. Name a .png, .pdf or .svg, or leave it out.")
        need("rerun")
        return
    check_ending(args.output)
    need("matplotlib")
