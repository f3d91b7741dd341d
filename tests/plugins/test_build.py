"""Building the library: what is found, what is run, what is refused; with nvcc and TensorRT's headers, the library."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from plugins.build import HERE, USUAL, main
from plugins.decode_step.models import LLAMA, QWEN
from plugins.decode_step.sizes import Sizes, misfit
from plugins.library import VARIABLE, VERSION, Library, LibraryError, open_library
from tests.plugins.small import QWEN as SMALL

COMPILER = """#!/bin/sh
case "$*" in *{fault}*) echo "a.cpp(3): error: no such name" >&2; exit 1;; esac
all="$*"
while [ $# -gt 1 ]; do if [ "$1" = -o ]; then echo "$all" > "$2"; fi; shift; done
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that writes what it is asked to write, and a folder of headers."""
    (tmp_path / "NvInferRuntime.h").touch()
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(COMPILER.format(fault="FAULT"))
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("NVCC", str(nvcc))
    monkeypatch.setenv("TENSORRT_INCLUDE", str(tmp_path))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    out, said = capsys.readouterr()
    _, name, sentence = said.partition("python -m plugins.build: ")
    assert out == "" and name and "Traceback" not in said
    return sentence.strip()


def test_a_dry_run_prints_the_commands_and_runs_none(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tools / "out" / "library.so"
    assert main(["--dry_run", "--output", str(output), "--sizes", SMALL.text, "--v2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kernels = [line for line in lines if "/decode_step_" in line and ".cu -o" in line]
    assert len(kernels) == 5, "two models in two precisions, and one more"
    assert all(line.startswith(f"{tools}/nvcc ") and "-arch=sm_90" in line for line in kernels)
    general = [line for line in lines if f"{HERE}/" in line and ".cu -o" in line]
    assert len(general) == len(list((HERE / "language_model").glob("*.cu"))) + 1
    assert all("code=sm_90a " in line and "code=compute_90 " in line for line in general)
    (shell,) = (line for line in lines if "library.cpp" in line)
    assert f"-I{tools} " in shell and "PLUGINS_V2" in shell and f"PLUGINS_VERSION={VERSION}" in shell
    assert len({line.split(" -o ")[1] for line in lines}) == len(lines), "every object has a name of its own"
    assert lines[-1].startswith(f"{tools}/nvcc -shared -cudart static ") and lines[-1].endswith(f"-ldl -o {output}")
    assert "nvinfer" not in lines[-1] and "cublas" not in lines[-1], "the library links nothing of TensorRT or cuBLAS"
    assert not output.parent.exists()


def test_every_part_is_compiled_and_the_library_replaced_as_a_whole(
    tools: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tools / "out" / "library.so"
    assert main(["--only", "--output", str(output), "--sizes", SMALL.text]) == 0
    before = output.read_text()
    names = ("decode_step_0.o", "decode_steps.o", "decode_step_plugin.o", "language_model_plugin.o", "library.o")
    assert all(name in before for name in names)
    kernel = (output.parent / "objects" / "decode_step_0.cu").read_text()
    assert kernel.startswith("#define VARIANT decode_step_0\n#define HIDDEN 256\n") and "#define PURE 1\n" in kernel
    table = (output.parent / "objects" / "decode_steps.cpp").read_text()
    assert "decode_steps[] = {&decode_step_0, nullptr};" in table
    assert f"[1/{before.count('.o ') + 1}]" in capsys.readouterr().err
    (tools / "nvcc").write_text(COMPILER.format(fault="facts"))
    said = refused(capsys, "--only", "--output", str(output), "--sizes", SMALL.text).split("\n")
    assert "the compiler has failed: a.cpp(3): error: no such name" in said[-2] and "facts.cpp" in said[-1]
    assert output.read_text() == before


def test_where_the_library_cannot_be_written_is_a_sentence(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        refused(capsys, "--only", "--output", str(tools))
        == f"--output {tools} is a folder, but the name of a file was expected."
    )
    below = tools / "nvcc" / "library.so"
    said = refused(capsys, "--only", "--output", str(below))
    assert said == f"{below.parent}: cannot be written (Not a directory). Choose another --output."


def test_what_is_missing_is_named(
    tools: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORRT_INCLUDE", str(tools / "nowhere"))
    said = refused(capsys, "--dry_run")
    assert said.startswith(f"TENSORRT_INCLUDE is '{tools}/nowhere', but there is no NvInferRuntime.h. Take them")
    monkeypatch.delenv("TENSORRT_INCLUDE")
    monkeypatch.setattr("plugins.build.USUAL", USUAL[:0])
    assert refused(capsys, "--dry_run").startswith("TensorRT's headers are in none of (): no NvInferRuntime.h. Take")
    monkeypatch.setenv("NVCC", "nvcc-that-is-not-there")
    monkeypatch.setattr("plugins.build.NVCC", "/nowhere/nvcc")
    assert refused(capsys, "--dry_run") == (
        "nvcc was found neither on the path nor as /nowhere/nvcc. Install the CUDA toolkit, or name it: "
        "NVCC=FILE make plugins"
    )


@pytest.mark.usefixtures("tools")
def test_what_cannot_be_compiled_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("sm_75", "sm_90,", "hopper", "sm_80 sm_90"):
        said = refused(capsys, "--dry_run", "--architecture", kind)
        assert said.startswith(
            f"--architecture is {kind!r}, but sm_80 or newer ones, separated by commas, were expected."
        )
    said = refused(capsys, "--dry_run", "--architecture", "sm_80", "--sizes", SMALL.text)
    assert said == "--sizes is about the decode kernel, which is for sm_90 alone."
    assert "as name=number" in refused(capsys, "--dry_run", "--sizes", "hidden=3")
    assert "as name=number" in refused(capsys, "--dry_run", "--sizes", SMALL.text + ",hidden=3")
    said = refused(capsys, "--dry_run", "--sizes", SMALL.text.replace("layers=2", "layers=many"))
    assert "--sizes invalid literal" in said and "many" in said
    said = refused(capsys, "--dry_run", "--sizes", SMALL.text.replace("head_dim=64", "head_dim=80"))
    assert said == (
        "--sizes: the decode kernel cannot be compiled for this model: heads have 80 channels, but 64 were expected."
    )


def test_other_gpus_get_the_general_kernels_alone(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tools / "out" / "library.so"
    assert main(["--output", str(output), "--architecture", "sm_89,sm_80"]) == 0
    objects = output.parent / "objects"
    assert "decode_steps[] = {nullptr};" in (objects / "decode_steps.cpp").read_text()
    said = (objects / "shell_mask.o").read_text()
    kinds = ("arch=compute_80,code=sm_80 ", "arch=compute_89,code=sm_89 ", "arch=compute_89,code=compute_89 ")
    assert all(kind in said for kind in kinds)
    assert '-DSPATIALLM_PLUGINS_ARCHITECTURES="sm_80,sm_89"' in (objects / "library.o").read_text()
    assert "library.so" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("built", "runs", "refuses"),
    [
        ("sm_90", ("9.0", "10.0", "12.0"), ("8.0", "8.9")),
        ("sm_80,sm_90", ("8.0", "8.6", "8.9", "9.0", "10.0"), ("7.5",)),
        ("sm_89", ("8.9", "9.0"), ("8.0", "8.6")),
    ],
)
def test_which_gpus_a_library_is_for(built: str, runs: tuple[str, ...], refuses: tuple[str, ...]) -> None:
    library = Library(Path("library.so"), VERSION, 10, tuple(built.split(",")), ())
    assert all(map(library.runs_on, runs)) and not any(map(library.runs_on, refuses))


@pytest.mark.parametrize("sizes", [QWEN, LLAMA, SMALL])
def test_sizes_as_text(sizes: Sizes) -> None:
    assert Sizes.parse(sizes.text) == sizes
    assert misfit(sizes) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("heads=6>heads=7", "7 query heads share 2 key heads"),
        ("heads=6>heads=18", "18 query heads share 2 key heads, but at most 8"),
        ("hidden=256>hidden=200", "the hidden state has 200 channels, but a multiple of 64 up to 4096"),
        ("hidden=256>hidden=4160", "4160 channels, but a multiple of 64"),
        ("intermediate=384>intermediate=320", "the inner size is 320, but a multiple of 64 from 384 on"),
        ("layers=2>layers=65", "65 layers, but at most 64"),
    ],
)
def test_models_that_the_kernel_does_not_fit(changed: str, reason: str) -> None:
    found = misfit(Sizes.parse(SMALL.text.replace(*changed.split(">"), 1)))
    assert found is not None and reason in found


def test_a_library_that_is_absent_or_none_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "library.so"
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(LibraryError, match=r"library\.so is not there\. Build it: make plugins"):
        open_library("8.6.0")
    file.write_text("noise")
    with pytest.raises(LibraryError, match=r"cannot be loaded \(.*\)\. Build it anew: make plugins"):
        open_library("8.6.0")


TOOLS = (
    shutil.which("nvcc") is not None and Path(os.environ.get("TENSORRT_INCLUDE", "/")).joinpath("NvInfer.h").is_file()
)


@pytest.mark.skipif(not TOOLS, reason="nvcc, and TensorRT's headers in TENSORRT_INCLUDE, are needed")
def test_the_library_tells_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "library.so"
    assert main(["--only", "--output", str(output), "--sizes", SMALL.text]) == 0
    monkeypatch.setenv(VARIABLE, str(output))
    major = next(str(n) for n in (8, 9, 10, 11) if _opens(str(n)))
    library = open_library(f"{major}.0.0")
    assert (library.version, library.tensorrt, library.architectures) == (VERSION, int(major), ("sm_90",))
    assert library.has_decode_step(SMALL) and not library.has_decode_step(QWEN)
    with pytest.raises(LibraryError, match=r"built with the headers of TensorRT \d+, but 7\.0 is installed"):
        open_library("7.0")
    monkeypatch.setattr("plugins.library.VERSION", VERSION + 1)
    with pytest.raises(LibraryError, match=rf"has version {VERSION}, but {VERSION + 1} is needed\. Build it anew"):
        open_library(f"{major}.0.0")


def _opens(major: str) -> bool:
    try:
        open_library(f"{major}.0.0")
    except LibraryError:
        return False
    return True
