"""Our small kernels, compiled for the GPU at hand by NVRTC and kept on disk."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cuda.bindings import driver, nvrtc
from cuda.bindings import runtime as cudart

from runtime.engines.cuda.library import INSTALL_NVRTC, call, call_driver, call_nvrtc
from runtime.errors import EngineError
from runtime.files import cache_folder, read_kept, write_kept

SOURCE = Path(__file__).with_name("step.cu")
Dim = tuple[int, int]


class Kernels:
    """The functions of one source file, loaded on one device."""

    def __init__(self, device: int, source: Path = SOURCE) -> None:
        """Compile or read back, and load. Raises EngineError."""
        major, minor = (
            int(call(cudart.cudaDeviceGetAttribute, attribute, device))
            for attribute in (
                cudart.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor,
                cudart.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor,
            )
        )
        self._module = call_driver(driver.cuModuleLoadData, cubin(source, f"sm_{major}{minor}"))
        self._functions: dict[str, Any] = {}

    def launch(
        self, name: str, grid: Dim, threads: int, stream: int, arguments: Sequence[tuple[Any, type[Any]]]
    ) -> None:
        """Ask for one run of a kernel; `arguments` are values with their ctypes."""
        if name not in self._functions:
            self._functions[name] = call_driver(driver.cuModuleGetFunction, self._module, name.encode())
        values, types = zip(*arguments, strict=True)
        call_driver(
            driver.cuLaunchKernel, self._functions[name], *grid, 1, threads, 1, 1, 0, stream, (values, types), 0
        )

    def close(self) -> None:
        driver.cuModuleUnload(self._module)  # unchecked: at exit the driver may be gone already


def cubin(source: Path, architecture: str) -> bytes:
    """Machine code of a source file, from the disk where it was compiled before."""
    text, compiler = source.read_bytes(), _compiler()
    digest = hashlib.sha256(text + architecture.encode() + compiler.encode()).hexdigest()[:24]
    try:
        kept = cache_folder() / f"{source.stem}-{architecture}-{digest}.cubin"
    except OSError:
        return compile_cubin(text, source.name, architecture)
    if (known := read_kept(kept)) is not None:  # damaged code could crash the driver, so it is compiled anew
        return known
    code = compile_cubin(text, source.name, architecture)
    with contextlib.suppress(OSError):  # a disk that cannot be written costs a second at the next start, no more
        write_kept(kept, code)
    return code


def _compiler() -> str:
    """Version of NVRTC. Raises EngineError where its library is not there."""
    try:
        return "{}.{}".format(*call_nvrtc(nvrtc.nvrtcVersion))
    except (RuntimeError, OSError) as error:  # what the bindings raise differs by version
        raise EngineError(
            f"the kernels of the decode step need NVRTC, whose library was not found. "
            f"Install it: {INSTALL_NVRTC}, or the CUDA toolkit"
        ) from error


def compile_cubin(text: bytes, name: str, architecture: str) -> bytes:
    """Compile with NVRTC, e.g. for "sm_90". Raises EngineError with the compiler's words."""
    program = call_nvrtc(nvrtc.nvrtcCreateProgram, text, name.encode(), 0, [], [])
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    try:
        if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) != 0:
            # One more: bytes of length 1 are shared by the whole interpreter, and NVRTC writes into what it is given.
            log = bytes(1 + call_nvrtc(nvrtc.nvrtcGetProgramLogSize, program))
            call_nvrtc(nvrtc.nvrtcGetProgramLog, program, log)
            words = log.rstrip(b"\0").decode(errors="replace").strip()
            raise EngineError(
                f"{name} cannot be compiled for {architecture} ({words}). "
                f"Install an NVRTC that knows this GPU: {INSTALL_NVRTC}"
            )
        code = bytes(call_nvrtc(nvrtc.nvrtcGetCUBINSize, program))
        call_nvrtc(nvrtc.nvrtcGetCUBIN, program, code)
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def pointer(address: int) -> tuple[int, type[Any]]:
    """A pointer argument of a kernel."""
    return address, ctypes.c_void_p


def integer(value: int) -> tuple[int, type[Any]]:
    """An int argument of a kernel."""
    return value, ctypes.c_int
