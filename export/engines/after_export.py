"""`export_model.py --engine tensorrt`: the build as the last step of an export."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from export.engines.arguments import common_options
from export.engines.options import BuildOptions
from export.engines.profiles import check_limits
from runtime.bundle import Bundle
from runtime.errors import EngineError, SceneError


def check_engine_options(args: argparse.Namespace) -> None:
    """Raise SceneError for options of a build that is not asked for, or that cannot be."""
    options = common_options(args)
    if args.engine is None and options != BuildOptions():
        raise SceneError(
            "--max_batch, --max_voxels, --max_point_tokens, --opt_level and --language_model are about engines: "
            "add --engine."
        )
    if args.engine is not None and args.quantization is not None:
        raise SceneError("--quantization is for ONNX Runtime on the CPU, --engine for a GPU. Choose one of them.")
    options.check()
    check_limits(options.limits, args.max_length)


def check_engine(args: argparse.Namespace) -> None:
    """Raise EngineError where no engine can be built here."""
    from export.engines.plans import open_toolchain

    open_toolchain(0, args.precision)


def add_engines(args: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Build engines of the bundle just written, which stands whatever happens now. `facts` are printed with --json."""
    from export.engines import report
    from export.engines.plans import build_engines

    bundle, silent = Bundle.open(args.output, verify=False), args.quiet or args.json
    try:
        built = build_engines(bundle, common_options(args), silent=silent)
    except KeyboardInterrupt:
        print("export_model.py: interrupted; the bundle stands, its engines were not built.", file=sys.stderr)
        return 130
    except SceneError as error:
        raise EngineError(f"{error} (The bundle stands; only its engines are missing.)") from error
    if args.json:
        print(json.dumps(facts | {"engines": report.facts(built)}))
    elif not args.quiet:
        print(report.text(built, args.output))
    return 0
