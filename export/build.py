"""A bundle's graphs become TensorRT engines for the GPU at hand: `python -m export.build --bundle BUNDLE`.

Needs TensorRT, the CUDA bindings and a GPU, but neither torch nor onnx: it runs where the engines will run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.door import guarded

PROGRAM = "python -m export.build"
EPILOG = """\
examples:
  python -m export.build --bundle bundle
  python -m export.build --bundle bundle --max_voxels 30000 --max_length 4096
  python -m export.build --bundle bundle --graphs language_model --opt_level 5

then:
  python run_engine.py --bundle bundle --backend tensorrt --point_cloud scene.ply --output scene.txt
"""


def parser() -> argparse.ArgumentParser:
    """All options of the build."""
    from export.engines.arguments import add_all  # it needs numpy

    p = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Build TensorRT engines of a bundle for the GPU of this machine, into the bundle's folder engines.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-m", "--bundle", required=True, type=Path, help="bundle folder that export_model.py wrote")
    add_all(p)
    p.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    p.add_argument("--json", action="store_true", help="print a machine-readable summary on stdout")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Build: 0 when the engines stand, 2 with one sentence on stderr when they cannot be built."""
    return guarded(
        PROGRAM,
        lambda: _build(parser().parse_args(arguments)),
        interrupted="nothing was written, and engines that stood there stand",
        install="pip install '.[tensorrt]'",
    )


def _build(args: argparse.Namespace) -> int:
    from export.engines.arguments import all_options
    from export.engines.plans import build_engines
    from export.engines.report import facts, text
    from runtime.bundle import Bundle

    options = all_options(args)
    built = build_engines(Bundle.open(args.bundle), options, silent=args.quiet or args.json)
    if args.json:
        print(json.dumps(facts(built)))
    elif not args.quiet:
        print(text(built, args.bundle))
    return 0


if __name__ == "__main__":
    sys.exit(main())
