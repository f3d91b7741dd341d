"""NVRTC without a GPU: it compiles on any machine that has its library."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path


def find_nvrtc() -> Path | None:
    """The library of a toolkit, or of a package of this Python; the latest of what is there first."""
    found = [path for folder in _folders() for path in sorted(folder.glob("libnvrtc.so.*"), reverse=True)]
    return next(iter(found), None)


def _folders() -> Iterator[Path]:
    roots = [Path("/usr/local/cuda")]
    if nvcc := shutil.which("nvcc"):
        roots.insert(0, Path(nvcc).resolve().parent.parent)
    yield from (root / "lib64" for root in roots)
    spec = importlib.util.find_spec("nvidia")
    for package in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(package).glob("*/lib"), reverse=True)


def errors_of_nvrtc(library: Path, text: str, architecture: str) -> str:
    """The compiler's words where it refuses the text, e.g. for "sm_90"; empty where it takes it."""
    nvrtc = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None) == 0
    try:
        options = (ctypes.c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"--std=c++17")
        return "" if nvrtc.nvrtcCompileProgram(program, len(options), options) == 0 else _log(nvrtc, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _log(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    assert nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
    words = ctypes.create_string_buffer(size.value + 1)
    assert nvrtc.nvrtcGetProgramLog(program, words) == 0
    return words.value.decode(errors="replace").strip() or "refused without a word"
