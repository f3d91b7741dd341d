"""The command line of `python -m export.parity`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from export.parity import BACKENDS
from export.parity.console import lines, strict, without_differences
from runtime.door import guarded
from runtime.errors import SceneError
from runtime.files import replacing
from runtime.outputs import check_output, check_outside

if TYPE_CHECKING:  # torch takes seconds to import: --help and a mistyped option should not wait for it
    from export.parity.ladder import Ladder
    from runtime.rung import Recording

EXIT_DIFFERENT = 1
EPILOG = """\
examples:
  python -m export.parity --bundle bundle --model CHECKPOINT --point_cloud scene.ply --report parity.html
  python -m export.parity -m bundle --model CHECKPOINT -p scene.ply --backends torch onnxruntime tensorrt
  python -m export.parity --bundle bundle --model CHECKPOINT --point_cloud scene.ply --against robot.npz

The last compares with a rung that was recorded elsewhere: python -m runtime.record --help.
Exit code: 0 equal or equal within precision, 1 different, 2 could not be done.
"""


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(
        prog="python -m export.parity",
        description="Climb from the literal reference to the compiled engine, and say where they first depart.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-m", "--bundle", type=Path, required=True)
    p.add_argument("--model", help="the checkpoint of the bundle, for the torch rungs")
    p.add_argument("-p", "--point_cloud", type=Path, nargs="+", default=[], help="one scene or several")
    p.add_argument("--backends", nargs="+", choices=BACKENDS, default=["torch", "onnxruntime"],
                   help="rungs; torch is the reference and the clean modules (default: torch onnxruntime)")  # fmt: skip
    p.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE.npz",
                   help="rungs recorded elsewhere, put on top of the ladder")  # fmt: skip
    p.add_argument("--taps", metavar="LAYERS",
                   help="compare the rotation's nine checkpoints too, in all layers or such as 0,5")  # fmt: skip
    p.add_argument("--bisect", action="store_true",
                   help="of a bundle in half precision: which parts and layers must be in float32")  # fmt: skip
    p.add_argument("--device", default="cuda:0", help="of the rungs on a GPU (default: cuda:0)")
    p.add_argument("--no_cleanup", action="store_true", help="take the points as they are")
    p.add_argument("--pcd_theta", type=float, help="as it was given to export_model.py")
    p.add_argument("--forced_steps", type=int, default=64, help="decode steps with given tokens (default: 64)")
    p.add_argument("--free_tokens", type=int, default=256, help="greedy tokens (default: 256)")
    p.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write a page with all differences; .json for machines"
    )
    p.add_argument("-q", "--quiet", action="store_true", help="print errors only; the exit code tells the verdict")
    p.add_argument("--json", action="store_true", help="print the result as one line, without the single differences")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare: 0 equal (within precision), 1 different, 2 with one sentence on stderr when it cannot be done."""
    return guarded(
        "python -m export.parity",
        lambda: _compare(parser().parse_args(arguments)),
        interrupted="nothing was written",
        install="pip install '.[onnxruntime,export,reference,eval]'",
    )


def _compare(args: argparse.Namespace) -> int:
    _check(args)
    from export.parity.results import scene_result, verdict_of
    from export.parity.verdict import DIFFERENT
    from export.passes.taps import named_layers

    recorded = _load(args.against, [source.name for source in args.point_cloud])
    _check_rungs(args, recorded)
    ladder = _ladder(args)
    reader = ladder.reader()
    layers = named_layers(args.taps, ladder.bundle.manifest.language_model.layers) if args.taps else ()
    if args.bisect:
        ladder.check_bisection()
    scenes = []
    with tqdm(total=0, unit="rung", desc="Ladder", disable=args.quiet or args.json, leave=False) as bar:
        for source in args.point_cloud:
            rungs = _named([*ladder.record(source, lambda name: _step(bar, name)), *_of_scene(recorded, source)])
            scene = scene_result(source.name, rungs, reader)
            if args.taps:
                elsewhere = [rung for rung in rungs if "file" in rung.facts]
                scene["checkpoints"] = ladder.checkpoints(source, layers, elsewhere, lambda name: _step(bar, name))
            if args.bisect:
                scene["bisection"] = ladder.bisection(source, lambda name: _step(bar, name))
            scenes.append(scene)
    result: dict[str, Any] = {
        "verdict": verdict_of(scenes),
        "created_by": "spatiallm-export",
        "command": shlex.join(["python", "-m", "export.parity", *sys.argv[1:]]),
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "scenes": scenes,
    }
    if args.report:
        _write(args.report, result)
    if args.json:
        print(strict(without_differences(result)))
    elif not args.quiet:
        print("\n".join(lines(result)))
    return EXIT_DIFFERENT if result["verdict"] == DIFFERENT else 0


def _step(bar: Any, name: str) -> None:
    bar.set_postfix_str(name)
    bar.update()


def _ladder(args: argparse.Namespace) -> Ladder:
    from export.checkpoint import open_checkpoint
    from export.parity.ladder import Ladder
    from runtime.bundle import Bundle
    from runtime.rung import Plan
    from runtime.scene import Request

    bundle = Bundle.open(args.bundle)
    position = bundle.manifest.position
    checkpoint = None
    if args.model is not None:
        variant = {} if position.variant is None else {"variant": position.variant}
        checkpoint = open_checkpoint(
            args.model,
            vlm_pe=position.vlm_pe,
            merge_rule=position.merge_rule,
            pcd_theta=args.pcd_theta,
            round_encoder_to_bf16=bundle.manifest.encoder_weights == "rounded to bf16",
            **variant,
        )
        checkpoint.verify()
    return Ladder(
        bundle=bundle,
        checkpoint=checkpoint,
        backends=args.backends,
        device=args.device,
        request=Request(clean_up=not args.no_cleanup),
        plan=Plan(forced_steps=args.forced_steps, free_tokens=args.free_tokens),
    )


def _load(paths: Sequence[Path], scenes: Sequence[str]) -> list[Recording]:
    from runtime.rung import Recording

    found = [_of_file(path, Recording.load(path)) for path in paths]
    for path, recording in zip(paths, found, strict=True):
        if (scene := recording.facts["scene"]) not in scenes:  # it would be left out without a word
            raise SceneError(f"{path}: was recorded of {scene!r}. Give that scene too: --point_cloud {scene}")
    return found


def _of_file(path: Path, recording: Recording) -> Recording:
    return dataclasses.replace(recording, facts=recording.facts | {"file": path.name})


def _named(rungs: Sequence[Recording]) -> list[Recording]:
    """No two of one name: of those from elsewhere the file's is added where the rung's is taken."""
    found: dict[str, Recording] = {}
    for rung in rungs:
        name = rung.name
        if name in found:
            name = f"{name} ({rung.facts['file']})"
        if name in found:
            raise SceneError(
                f"--against names two recordings {rung.facts['file']} of the rung {rung.name}. Rename one."
            )
        found[name] = dataclasses.replace(rung, facts=rung.facts | {"rung": name})
    return [*found.values()]


def _of_scene(recordings: Sequence[Recording], source: Path) -> Iterator[Recording]:
    yield from (recording for recording in recordings if recording.facts["scene"] == source.name)


def _check_rungs(args: argparse.Namespace, recorded: Sequence[Recording]) -> None:
    """A rung alone is compared with nothing, and would be called equal. Raises SceneError."""
    here = len({*args.backends}) + ("torch" in args.backends)  # torch is two
    for source in args.point_cloud:
        if here + len([*_of_scene(recorded, source)]) < 2 and args.taps is None:
            raise SceneError(
                f"{source.name}: there is one rung, which is compared with nothing. Add one: --backends torch "
                f"{' '.join(args.backends)}, or --against FILE.npz."
            )


def _check(args: argparse.Namespace) -> None:
    if not args.point_cloud:
        raise SceneError("--point_cloud names the scene or scenes to compare on; give at least one.")
    if ("torch" in args.backends or args.taps or args.bisect) and args.model is None:
        raise SceneError("--model must name the bundle's checkpoint, from which the torch rungs are made.")
    for name in ("forced_steps", "free_tokens"):
        if getattr(args, name) < 1:
            raise SceneError(f"--{name} is {getattr(args, name)}, but at least 1 is needed.")
    if any(name not in ("torch", "onnxruntime") for name in args.backends) and not args.device.startswith("cuda"):
        raise SceneError(f"--device is {args.device!r}, but it is of the rungs on a GPU. Give cuda:N, such as cuda:0.")
    if args.taps is not None and not args.taps.strip():
        raise SceneError("--taps names no layer. Give all, or numbers such as 0,5.")
    if args.report is not None:
        _check_report(args)


def _check_report(args: argparse.Namespace) -> None:
    if args.report.suffix.lower() not in (".html", ".json"):
        raise SceneError(f"{args.report}: the ending is {args.report.suffix!r}, but .html or .json was expected.")
    if args.model is not None:
        check_outside(Path(args.model), args.report, "checkpoint")
    read = {f"one of the inputs ({path.name})": path for path in (*args.point_cloud, *args.against)}
    check_output(args.report, bundle=args.bundle, read=read)


def _write(path: Path, result: dict[str, Any]) -> None:
    if path.suffix.lower() == ".html":
        from export.parity.report import write_report

        write_report(result, path)
        return
    try:
        with replacing(path) as temporary:
            temporary.write_text(strict(result) + "\n", encoding="utf-8")
    except OSError as error:
        raise SceneError(f"{path}: cannot be written ({error.strerror}). Choose another --report.") from error
