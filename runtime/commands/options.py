"""The options of `run_engine.py`, what is refused before any work, and the request they make."""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.commands import pictures
from runtime.decode import Sampling
from runtime.engines import BACKENDS
from runtime.errors import SceneError
from runtime.layout import ENDINGS
from runtime.manifest import GenerationSpec, Manifest
from runtime.outputs import check_output, check_outside, same_file
from runtime.pipeline import Pipeline
from runtime.prompt import CATEGORIES, DETECT_TYPES
from runtime.scene import MAX_NEW_TOKENS, Request

THREADS_PER_CORE = 4
UPSTREAM_TEMPERATURE, UPSTREAM_TOP_K, UPSTREAM_TOP_P = 0.6, 10, 0.95
EPILOG = """\
examples:
  python run_engine.py --bundle bundle --point_cloud scene.ply --output scene.txt
  python run_engine.py -m bundle -p scene.ply -o scene.json -d object -c bed nightstand --timings
  python run_engine.py -m bundle -p scenes/ -o layouts/ --batch_size 4
  python run_engine.py -m bundle -p scene.ply -o scene.txt --json | jq .layout.walls
  python run_engine.py -m bundle -p scene.ply -o scene.txt --plot scene.png --ground_truth truth.txt
  python run_engine.py --inspect bundle
  python run_engine.py --doctor

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
    _add_scene(p.add_argument_group("scene"))
    _add_tokens(p.add_argument_group("choice of tokens"))
    _add_engine(p.add_argument_group("engine"))
    _add_output(p.add_argument_group("output"))
    pictures.add_options(p.add_argument_group("pictures"))
    other = p.add_argument_group("instead of running a scene")
    other.add_argument("--inspect", type=Path, metavar="BUNDLE", help="say what is in a bundle")
    other.add_argument("--doctor", action="store_true", help="say what is installed and what is missing")
    return p


def _add_scene(p: argparse._ArgumentGroup) -> None:
    p.add_argument("-m", "--bundle", type=Path, help="folder that export_model.py wrote")
    p.add_argument(
        "-p",
        "--point_cloud",
        type=Path,
        help="scene (.ply, .npy, .npz, .xyz, .txt), z up, in metres; or a folder of them",
    )
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        help="layout to write: .txt (upstream's format) or .json; a name without ending is a folder",
    )
    p.add_argument("-d", "--detect_type", default="all", choices=DETECT_TYPES, help="what to look for (default: all)")
    p.add_argument(
        "-c", "--category", nargs="+", default=[], metavar="NAME",
        help=f"box categories to look for (default: all). Known: {', '.join(CATEGORIES)}",
    )  # fmt: skip
    p.add_argument(
        "--no_cleanup", action="store_true", help="take the points as they are: no voxel mean, no outlier removal"
    )
    p.add_argument("--scale", type=float, help="metres per unit of the file, e.g. 0.001 for millimetres")
    p.add_argument("--batch_size", type=int, default=1, help="scenes of a folder that run together (default: 1)")
    p.add_argument("--overwrite", action="store_true", help="run scenes of a folder again that are already done")
    p.add_argument("--output_format", choices=["txt", "json"], default="txt", help="for a folder (default: txt)")


def _add_tokens(p: argparse._ArgumentGroup) -> None:
    p.add_argument(
        "--do_sample", action="store_true", help="draw tokens: settings from here, else the checkpoint, else upstream"
    )
    p.add_argument(
        "--temperature", type=float, help="0 chooses the likeliest token, above 0 draws (default: 0; --do_sample: 0.6)"
    )
    p.add_argument(
        "--top_k", type=int, help="draw from the k likeliest tokens, 0 from all (default: checkpoint, else 10)"
    )
    p.add_argument("--top_p", type=float, help="draw from the likeliest that sum to p (default: checkpoint, else 0.95)")
    p.add_argument(
        "--repetition_penalty", type=float, help="above 1 avoids tokens already seen (default: checkpoint, else 1)"
    )
    p.add_argument("--seed", type=int, help="makes drawing repeatable")
    p.add_argument("--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help=f"(default: {MAX_NEW_TOKENS})")


def _add_engine(p: argparse._ArgumentGroup) -> None:
    p.add_argument(
        "--backend", default=BACKENDS[0], choices=BACKENDS,
        help="auto takes tensorrt where the bundle has engines for this GPU (default: auto)",
    )  # fmt: skip
    p.add_argument("--device", help="cpu, or cuda:N (default: cuda:0 with engines, else cpu)")
    p.add_argument("--threads", type=int, help="threads of ONNX Runtime on the CPU (default: one per core)")
    p.add_argument("--no_cuda_graph", action="store_true", help="launch each decode step's kernels one by one")
    p.add_argument("--no_verify", action="store_true", help="check the bundle's file sizes only, not their digests")


def _add_output(p: argparse._ArgumentGroup) -> None:
    p.add_argument("--report", action="store_true", help="describe the scene before the encoder runs")
    p.add_argument("--timings", action="store_true", help="print milliseconds by stage and tokens per second")
    p.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    p.add_argument(
        "--json", action="store_true", help="print one machine-readable summary on stdout and nothing else there"
    )
    p.add_argument("--save_tensors", type=Path, metavar="FILE.npz", help="keep what entered and left each graph")
    p.add_argument("--save_steps", type=int, default=8, help="decode steps that --save_tensors keeps (default: 8)")


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before any work is done. Raises SceneError."""
    if missing := [name for name in ("bundle", "point_cloud", "output") if getattr(args, name) is None]:
        raise SceneError(f"--{' and --'.join(missing)} must be given; --help shows examples.")
    _check_numbers(args)
    _check_categories(args.category)
    if str(args.output) == "-":
        raise SceneError("--output - is not a file. Name one, or read the layout from stdout with --json.")
    if args.save_tensors and args.save_tensors.suffix != ".npz":
        raise SceneError(f"{args.save_tensors}: --save_tensors writes an .npz file; give it that ending.")
    pictures.check(args, folder=is_folder(args))
    if is_folder(args):
        for path in (args.output, args.plot, args.rerun):
            if path is not None:
                check_outside(args.bundle, path)
        if args.save_tensors:
            raise SceneError(
                "--save_tensors keeps the tensors of one scene, but --point_cloud is a folder. Name a file."
            )
        if args.output.suffix or args.output.is_file():
            raise SceneError(f"{args.output}: is a file name, but --point_cloud is a folder; --output must be one too.")
        if args.ground_truth and args.output_format == "txt" and same_file(args.output, args.ground_truth):
            raise SceneError(
                f"{args.output}: is the folder of the ground truth, which layouts would replace. Name another --output."
            )
        return
    _check_files(args)


def _check_files(args: argparse.Namespace) -> None:
    """Every file that one scene's run writes: another one each, and none that is read."""
    if not args.output.suffix:  # as upstream: without an ending it is a folder
        make_folder(args.output)
        args.output = args.output / f"{args.point_cloud.stem}.{args.output_format}"
    if args.output.suffix.lower() not in ENDINGS:
        raise SceneError(
            f"{args.output}: the ending is {args.output.suffix!r}, but {' or '.join(ENDINGS)} was expected."
        )
    for path in (args.plot, args.rerun):
        if path is not None and not path.suffix:
            make_folder(path)
    drawn = pictures.Targets.of(args, args.point_cloud).paths()
    written = [path for path in (args.output, args.save_tensors, *drawn) if path]
    read = {"the scene itself": args.point_cloud, "the ground truth": pictures.truth_path(args, args.point_cloud)}
    for path in written:
        check_output(path, bundle=args.bundle, read=read)
    if any(same_file(path, other) for path, other in itertools.combinations(written, 2)):
        raise SceneError(f"{args.output}: is named for the layout and for --save_tensors. Name two files.")


def load_pipeline(args: argparse.Namespace) -> Pipeline:
    """Open the bundle as the options say, and tell what there is to know about the back end."""
    pipeline = Pipeline.load(
        args.bundle,
        backend=args.backend,
        device=args.device,
        threads=args.threads,
        cuda_graphs=not args.no_cuda_graph,
        verify=not args.no_verify,
    )
    if pipeline.note and not args.quiet:
        print(f"note: {pipeline.note}", file=sys.stderr)
    parity = pipeline.manifest.parity
    if parity is not None and parity.verdict == "different" and not args.quiet:
        print(f"warning: {args.bundle}: parity at export: {parity.sentence()}", file=sys.stderr)
    return pipeline


def is_folder(args: argparse.Namespace) -> bool:
    """Whether the scene is a folder of scenes."""
    return bool(args.point_cloud.is_dir())


def _check_categories(names: Sequence[str]) -> None:
    for name in names:
        if name not in CATEGORIES:
            near = difflib.get_close_matches(name, CATEGORIES, n=1)
            hint = f"Did you mean {near[0]}?" if near else "--help lists them."
            raise SceneError(f"--category {name} is none of the {len(CATEGORIES)} categories. {hint}")


def make_folder(path: Path) -> None:
    """Make a folder for layouts, if it is not there. Raises SceneError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SceneError(f"{path}: cannot be made ({error.strerror}). Name a folder that can be written to.") from error


def _check_numbers(args: argparse.Namespace) -> None:
    lowest = {
        "max_new_tokens": 1,
        "save_steps": 0,
        "temperature": 0.0,
        "top_k": 0,
        "seed": 0,
        "threads": 1,
        "batch_size": 1,
    }
    for name, low in lowest.items():
        if (value := getattr(args, name)) is not None and not low <= value < float("inf"):
            raise SceneError(f"--{name} is {value}, but at least {low} is needed.")
    if args.top_p is not None and not 0.0 < args.top_p <= 1.0:
        raise SceneError(f"--top_p is {args.top_p}, but it is a share of probability: above 0, at most 1.")
    if args.threads is not None and args.threads > (most := THREADS_PER_CORE * (os.cpu_count() or 1)):
        raise SceneError(f"--threads is {args.threads}, but more than {most} would only slow this machine down.")
    for name in ("repetition_penalty", "scale"):
        if (value := getattr(args, name)) is not None and not 0.0 < value < float("inf"):
            raise SceneError(f"--{name} is {value}, but a number above 0 is needed.")
    if args.do_sample and args.temperature == 0.0:
        raise SceneError("--do_sample draws tokens, but --temperature 0 chooses the likeliest. Leave one of them out.")


def request(args: argparse.Namespace, manifest: Manifest) -> Request:
    """What the options ask of each scene."""
    return Request(
        detect_type=args.detect_type,
        categories=tuple(args.category),
        clean_up=not args.no_cleanup,
        max_new_tokens=args.max_new_tokens,
        sampling=_sampling(args, manifest.generation),
        scale=args.scale,
    )


def _sampling(args: argparse.Namespace, checkpoint: GenerationSpec) -> Sampling:
    """Flags first, then what the checkpoint says, then upstream's defaults. Greedy unless drawing is asked for."""

    def first(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    default = first(checkpoint.temperature, UPSTREAM_TEMPERATURE) if args.do_sample else 0.0
    return Sampling(
        temperature=first(args.temperature, default),
        top_k=first(args.top_k, checkpoint.top_k, UPSTREAM_TOP_K),
        top_p=first(args.top_p, checkpoint.top_p, UPSTREAM_TOP_P),
        repetition_penalty=first(args.repetition_penalty, checkpoint.repetition_penalty, 1.0),
        seed=args.seed,
    )
