"""The plugin library: python -m plugins.build, or `make plugins`.

    python -m plugins.build --dry_run                     what would be run
    python -m plugins.build                               decode kernels for the published models, in fp16 and bf16
    python -m plugins.build --sizes hidden=256,...        for other sizes beside them (a note of the build tells them)
    python -m plugins.build --architecture sm_80,sm_90    for several kinds of GPU

Needs nvcc (found by NVCC, on the path or in /usr/local/cuda) and the headers of the TensorRT that will load the library
(found by TENSORRT_INCLUDE or in the usual places). It links neither TensorRT nor a shared CUDA runtime.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plugins.decode_step.models import MODELS
from plugins.decode_step.sizes import Sizes, Tuning, misfit, source
from plugins.library import VERSION

PROGRAM = "python -m plugins.build"
HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "build" / "libspatiallm_plugins.so"
LAUNCHER = HERE / "decode_step" / "launch.cu"
SHELL = ("shell/facts.cpp", "decode_step/plugin.cpp", "language_model/plugin.cpp", "library.cpp")
DECODE_ARCHITECTURE = (
    "sm_90"  # the decode kernel needs bulk copies into 227 KB of shared memory, and has run on no other
)
OLDEST = 80  # of the general kernels: asynchronous copies, products of bf16
OWN = {"90": "90a"}  # with instructions that no other kind has: products of warpgroups
NVCC = "/usr/local/cuda/bin/nvcc"
HEADER = "NvInferRuntime.h"
USUAL = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
    "/opt/tensorrt/include",
)
OPTIONS = ("-std=c++17", "-O3", "-diag-suppress", "177", "-Xcompiler", "-fPIC,-fvisibility=hidden")


class BuildError(Exception):
    """What is missing or wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the compiler; `text` is the source that is written first."""

    command: tuple[str, ...]
    source: Path | None = None
    text: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the library stands, 2 with a sentence on stderr where it cannot be built."""
    args = parser().parse_args(arguments)
    try:
        steps = list(plan(args, find_compiler(), find_headers()))
        if args.dry_run:
            print("\n".join(shlex.join(step.command) for step in steps))
        else:
            run(steps, args.output, args.jobs)
            print(f"{args.output}: version {VERSION}")
    except BuildError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", type=Path, default=OUTPUT, help=f"the library (default: {OUTPUT.relative_to(HERE)})")
    p.add_argument(
        "--sizes",
        action="append",
        default=[],
        metavar="NAME=NUMBER,...",
        help="a model to compile the decode kernel for, beside the published ones; may be given again",
    )
    p.add_argument("--only", action="store_true", help="leave out the decode kernels of the published models")
    p.add_argument(
        "--architecture",
        default=DECODE_ARCHITECTURE,
        metavar="sm_N,...",
        help=f"kinds of GPU, from sm_{OLDEST} on; the decode kernel is for {DECODE_ARCHITECTURE} alone, on others "
        f"decode takes the general kernels (default: {DECODE_ARCHITECTURE})",
    )
    p.add_argument("--v2", action="store_true", help="from TensorRT 10 on: the interface of version 2 instead of 3")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time (default: one a core)")
    p.add_argument("--dry_run", action="store_true", help="print the commands and run none")
    return p


def find_compiler() -> str:
    """Path of nvcc. Raises BuildError."""
    if found := shutil.which(os.environ.get("NVCC") or "nvcc") or shutil.which(NVCC):
        return found
    raise BuildError(
        f"nvcc was found neither on the path nor as {NVCC}. Install the CUDA toolkit, or name it: "
        "NVCC=FILE make plugins"
    )


def find_headers() -> Path:
    """The folder of TensorRT's headers. Raises BuildError."""
    told = os.environ.get("TENSORRT_INCLUDE")
    for folder in map(Path, [told] if told else USUAL):
        if (folder / HEADER).is_file():
            return folder
    place = f"TENSORRT_INCLUDE is {told!r}, but there is" if told else f"TensorRT's headers are in none of {USUAL}:"
    raise BuildError(
        f"{place} no {HEADER}. Take them of the version that is installed: package libnvinfer-headers-dev, or "
        "https://github.com/NVIDIA/TensorRT, branch release/VERSION, folder include; then "
        "TENSORRT_INCLUDE=FOLDER make plugins"
    )


def models(texts: Sequence[str], *, only: bool) -> list[Sizes]:
    """What decode kernels are compiled for. Raises BuildError."""
    chosen = (
        [] if only else [dataclasses.replace(each, bf16=half) for each in MODELS.values() for half in (False, True)]
    )
    for text in texts:
        try:
            sizes = Sizes.parse(text)
        except ValueError as error:
            raise BuildError(f"--sizes {error}.") from error
        if reason := misfit(sizes):
            raise BuildError(f"--sizes: the decode kernel cannot be compiled for this model: {reason}.")
        chosen.append(sizes)
    return list(dict.fromkeys(chosen))


def architectures(text: str) -> list[str]:
    """The kinds of GPU, oldest first. Raises BuildError."""
    found = [re.fullmatch(r"sm_(\d{2,3})", part) for part in text.split(",")]
    numbers = sorted({int(match[1]) for match in found if match})
    if not all(found) or numbers[0] < OLDEST:
        raise BuildError(
            f"--architecture is {text!r}, but sm_{OLDEST} or newer ones, separated by commas, were expected. "
            "On older GPUs build engines without plugins."
        )
    return [f"sm_{number}" for number in numbers]


def plan(args: argparse.Namespace, nvcc: str, headers: Path) -> Iterator[Step]:
    """All calls of the compiler; the last one links. Raises BuildError."""
    kinds, chosen = architectures(args.architecture), models(args.sizes, only=args.only)
    if DECODE_ARCHITECTURE not in kinds:
        if args.sizes:
            raise BuildError(f"--sizes is about the decode kernel, which is for {DECODE_ARCHITECTURE} alone.")
        chosen = []
    folder = args.output.parent / "objects"
    objects: list[Path] = []
    names: list[str] = []
    for sizes in chosen:
        names.append(name := f"decode_step_{len(names)}")
        text = f"#define VARIANT {name}\n{source(sizes, Tuning(), pure=True, file=LAUNCHER)}"
        objects.append(target := folder / f"{name}.o")
        file = folder / f"{name}.cu"
        yield Step((nvcc, *OPTIONS, f"-arch={DECODE_ARCHITECTURE}", "-c", str(file), "-o", str(target)), file, text)
    table, (kernels, shell) = folder / "decode_steps.cpp", _sources()
    defined = [f"-DSPATIALLM_PLUGINS_VERSION={VERSION}", f'-DSPATIALLM_PLUGINS_ARCHITECTURES="{",".join(kinds)}"']
    defined += ["-DSPATIALLM_PLUGINS_V2"] if args.v2 else []
    for file in (*kernels, table, *shell):
        objects.append(target := folder / f"{file.stem if file == table else _name(file)}.o")
        compile = (nvcc, *OPTIONS, *(_targets(kinds) if file in kernels else (*defined, f"-I{headers}")), f"-I{HERE}")
        quiet = ("-Xcompiler", "-Wno-deprecated-declarations")
        written = (table, _table(names)) if file == table else ()
        yield Step((*compile, *quiet, "-c", str(file), "-o", str(target)), *written)
    yield Step((nvcc, "-shared", "-cudart", "static", *map(str, objects), "-ldl", "-o", str(args.output)))


def _sources() -> tuple[list[Path], list[Path]]:
    """Files with kernels for all sizes, and what is compiled for the host."""
    kernels = [*sorted((HERE / "language_model").glob("*.cu")), HERE / "shell" / "mask.cu"]
    shell = {HERE / name for name in SHELL} | {*(HERE / "language_model").glob("*.cpp")}
    return kernels, sorted(shell)


def _name(file: Path) -> str:
    """Of the object: files of two folders may share theirs."""
    return "_".join(file.relative_to(HERE).with_suffix("").parts)


def _targets(kinds: Sequence[str]) -> Iterator[str]:
    """Machine code for each kind of GPU, and for newer ones what the driver makes it from."""
    numbers = [kind.removeprefix("sm_") for kind in kinds]
    for number in (OWN.get(number, number) for number in numbers):
        yield f"-gencode=arch=compute_{number},code=sm_{number}"
    yield f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"


def _table(names: Sequence[str]) -> str:
    """A C++ file with all kernels."""
    declared = "".join(f"extern const spatiallm::DecodeStep {name};\n" for name in names)
    listed = "".join(f"&{name}, " for name in names)
    head = '#include "decode_step/launch.h"\n'
    return f"{head}{declared}const spatiallm::DecodeStep *const spatiallm::decode_steps[] = {{{listed}nullptr}};\n"


def run(steps: Sequence[Step], output: Path, jobs: int) -> None:
    """Compile, then link into the place of the library that was there. Raises BuildError."""
    _make_folder(output)
    *compiling, linking = steps
    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        for number, step in enumerate(pool.map(_compile, compiling), start=1):
            print(f"[{number}/{len(steps)}] {Path(step.command[-1]).name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        made = Path(folder) / output.name
        _compile(Step((*linking.command[:-1], str(made))))
        made.replace(output)


def _make_folder(output: Path) -> None:
    try:
        (output.parent / "objects").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"{output.parent}: cannot be written ({error.strerror}). Choose another --output.") from error
    if output.is_dir():
        raise BuildError(f"--output {output} is a folder, but the name of a file was expected.")
    if not os.access(output.parent / "objects", os.W_OK):
        raise BuildError(f"{output.parent}: cannot be written. Choose another --output.")


def _compile(step: Step) -> Step:
    if step.source is not None:
        step.source.write_text(step.text)
    done = subprocess.run(step.command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if re.search(r"error|fatal", line)] or ["no reason given"]
        raise BuildError(f"the compiler has failed: {lines[0]}\nThe command was: {shlex.join(step.command)}")
    return step


if __name__ == "__main__":
    sys.exit(main())
