"""Options of a build on a command line: those that `export_model.py` has too, and those of `export.build` alone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from export.engines.islands import ISLANDS
from export.engines.options import DEFAULT_OPT_LEVEL, BuildOptions, device_index
from export.engines.profiles import Limits
from runtime.engines.record import LAYOUTS, SEPARATE, plan_names

_LIMITS = Limits()


def add_common(p: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """The largest sizes, and how long TensorRT searches."""
    p.add_argument(
        "--max_batch", type=int, default=_LIMITS.max_batch, help=f"scenes in one batch (default: {_LIMITS.max_batch})"
    )
    p.add_argument(
        "--max_voxels",
        type=int,
        default=_LIMITS.max_voxels,
        help=f"voxels of a scene, on which the encoder's memory depends (default: {_LIMITS.max_voxels})",
    )
    p.add_argument(
        "--max_point_tokens",
        type=int,
        default=_LIMITS.max_point_tokens,
        help=f"point tokens of a scene, on which prefill's memory depends (default: {_LIMITS.max_point_tokens})",
    )
    p.add_argument(
        "--opt_level",
        type=int,
        default=DEFAULT_OPT_LEVEL,
        help=f"how long TensorRT searches, 0 to 5 (default: {DEFAULT_OPT_LEVEL})",
    )
    _add_layout(p)


def _add_layout(p: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    p.add_argument(
        "--language_model",
        choices=sorted(LAYOUTS),
        help="separate: an engine for prefill and one for decode, whose weights are on the GPU twice; segmented: the "
        "same in engines of a few layers each, which are built side by side and far sooner on TensorRT 8.6; shared: "
        "one for both, whose weights are there once, and which takes longest to build (default: separate with our own "
        "kernels, for which see export.build --help; else segmented before TensorRT 9 where the model has more layers "
        "than a segment, else separate)",
    )


def add_all(p: argparse.ArgumentParser) -> None:
    """Everything that `python -m export.build` takes beside the bundle."""
    add_common(p)
    p.add_argument("--max_length", type=int, help="positions in the cache (default: the bundle's capacity)")
    p.add_argument(
        "--workspace", type=float, metavar="GB", help="scratch memory of the builder (default: what is free, less some)"
    )
    p.add_argument(
        "--timing_cache", type=Path, metavar="FILE", help="measured kernels, kept between builds (default: in ~/.cache)"
    )
    p.add_argument("--version_compatible", action="store_true", help="engines that newer TensorRT runs too; slower")
    p.add_argument("--hardware_compatible", action="store_true", help="engines for Ampere and all newer GPUs; slower")
    p.add_argument("--device", default="cuda:0", metavar="cuda:N", help="the GPU (default: cuda:0)")
    p.add_argument(
        "--graphs",
        nargs="+",
        metavar="GRAPH",
        help=f"build some anew and keep the others: {', '.join(plan_names(SEPARATE))}; language_model where that is "
        f"shared; prefill.0, decode.0 and so on where it is segmented (default: all)",
    )
    p.add_argument(
        "--jobs",
        type=int,
        help="graphs built at the same time; kernels are then timed on a GPU that others use, and the choice among "
        "them may be worse (default: 1; with segments as many as cores and memory allow)",
    )
    p.add_argument(
        "--islands",
        nargs="*",
        metavar="ISLAND",
        help=f"before TensorRT 9, in fp16 bundles without --plugins: parts of the language model held in their type, "
        f"of {', '.join(ISLANDS)} (default: norm); the encoder is float32 as a whole",
    )
    p.add_argument(
        "--plugins",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="prefill and decode by kernels of our own instead of TensorRT's, over one copy of the weights on the GPU, "
        "in fp16 or bf16, from compute capability 8.0 on; on 9.0 one scene at a time decodes in one kernel. Needs "
        "`make plugins`. Where they have not run, compare layouts with those of engines without them (default: where "
        "they ran and were better, with TensorRT 8.6 on compute capability 9.0, if the library is there)",
    )
    p.add_argument("--direct_io", action="store_true", help=argparse.SUPPRESS)  # for benchmarks


def common_options(args: argparse.Namespace) -> BuildOptions:
    """Options from `add_common`, not checked yet."""
    limits = Limits(max_batch=args.max_batch, max_voxels=args.max_voxels, max_point_tokens=args.max_point_tokens)
    return BuildOptions(limits=limits, opt_level=args.opt_level, language_model=args.language_model)


def all_options(args: argparse.Namespace) -> BuildOptions:
    """Options from `add_all`. Raises SceneError."""
    common = common_options(args)
    options = replace(
        common,
        limits=replace(common.limits, max_length=args.max_length),
        graphs=None if args.graphs is None else tuple(args.graphs),
        workspace=args.workspace,
        timing_cache=args.timing_cache,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        device=device_index(args.device),
        jobs=args.jobs,
        islands=None if args.islands is None else tuple(args.islands),
        direct_io=args.direct_io,
        plugins=args.plugins,
    )
    options.check()
    return options
