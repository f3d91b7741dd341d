"""The demo: export the checkpoint, read the layouts of a few scans that it never saw, draw and score them.

python -m demo.run --model demo/checkpoint --output out

Every step is a command of this repository, which is printed before it runs. The scans are rooms of the test split.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.door import guarded
from runtime.errors import SceneError

PROGRAM = "python -m demo.run"
ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("benchmarks", "demo", "docs", "export", "plugins", "runtime", "tests")
MOST_TOKENS = 1024  # the longest answer to ten thousand rooms has fewer than 640: who says more has lost the thread


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, default=Path("demo/checkpoint"), metavar="DIR", help="(%(default)s)")
    p.add_argument(
        "--scenes",
        type=Path,
        default=Path("demo/scenes"),
        metavar="DIR",
        help="scans as .ply, each with its ground truth as .txt (%(default)s)",
    )
    p.add_argument(
        "--output", type=Path, default=Path("out"), metavar="DIR", help="for the bundle and demo/ (%(default)s)"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all steps ran, however good the layouts are; 2 with one sentence on stderr when one could not."""
    return guarded(
        PROGRAM,
        lambda: _demo(parser().parse_args(arguments)),
        interrupted="what was written so far is whole",
        install="pip install '.[onnxruntime,export,plot,eval]'",
    )


def _demo(args: argparse.Namespace) -> int:
    model, folder, output = (path.resolve() for path in (args.model, args.scenes, args.output))
    scenes = sorted(folder.glob("*.ply"))
    if not scenes:
        raise SceneError(f"{args.scenes}: holds no .ply. Make scans: python -m demo.rooms --output {args.scenes}")
    _check(output, args.output)
    bundle, results = output / "bundle", output / "demo"
    results.mkdir(parents=True, exist_ok=True)
    _run("export_model.py", "--model", model, "--output", bundle)
    print("\nWhat streams by below is the model's own text, in bins; the files are in metres.")
    for scene in scenes:
        _read(scene, bundle, results / scene.stem)
    _run("-m", "demo.score", "--truth", folder, "--pred", results, "--by_room")
    print(f"\nIn {_shown(results)}: layouts in metres (.txt, .json), pictures beside the ground truth (.png).")
    return 0


def _check(output: Path, given: Path) -> None:
    """What is written is no source, and takes no place of one."""
    if output == ROOT or any((ROOT / name) in (output, *output.parents) for name in SOURCES):
        raise SceneError(
            f"--output {given} is a folder of the source, where bundle/ and demo/ would lie among its files. "
            "Name a folder of its own, e.g. --output out."
        )


def _read(scene: Path, bundle: Path, target: Path) -> None:
    """Write `target` as .txt, .json and .png."""
    from runtime.layout import read_layout, write_layout  # they need numpy

    text, picture = target.with_suffix(".txt"), target.with_suffix(".png")
    _run(
        *("run_engine.py", "--bundle", bundle, "--point_cloud", scene, "--output", text),
        *("--plot", picture, "--ground_truth", scene.with_suffix(".txt")),
        *("--max_new_tokens", str(MOST_TOKENS), "--timings"),
    )
    write_layout(read_layout(text), target.with_suffix(".json"))


def _run(*words: str | Path) -> None:
    """Print a command of the repository and run it. Raises SceneError where it fails; it has said why."""
    shown = shlex.join(["python", *(_shown(word) if isinstance(word, Path) else word for word in words)])
    print(f"\n$ {shown}", flush=True)
    code = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=False).returncode
    if code:
        raise SceneError(f"the demo ends here: this command ended with exit code {code}: {shown}")


def _shown(path: Path) -> str:
    """As one would type it in the repository, or whole where it lies elsewhere."""
    relative = os.path.relpath(path, ROOT)
    return str(path) if relative.startswith("..") else relative


if __name__ == "__main__":
    sys.exit(main())
