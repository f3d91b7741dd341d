"""Fake of `cuda.bindings.nvrtc`: keeps the source, and "compiles" to the list of its kernels."""

from __future__ import annotations

import ctypes
import json
import re
from enum import IntEnum
from typing import Any

from fake_streams import new_handle

from cuda.bindings._handles import Handle
from cuda.bindings.driver import MAGIC

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120")
KERNEL = re.compile(rb'extern\s+"C"[\s\w()]*?__global__[\s\w()]*?\bvoid\s+(\w+)\s*\(')


class nvrtcResult(IntEnum):
    NVRTC_SUCCESS = 0
    NVRTC_ERROR_PROGRAM_CREATION_FAILURE = 2
    NVRTC_ERROR_INVALID_INPUT = 3
    NVRTC_ERROR_INVALID_PROGRAM = 4
    NVRTC_ERROR_INVALID_OPTION = 5
    NVRTC_ERROR_COMPILATION = 6


class nvrtcProgram(Handle): ...


OK = nvrtcResult.NVRTC_SUCCESS
programs: dict[int, dict[str, bytes]] = {}  # handle -> source, log, cubin
compiled: list[bytes] = []  # sources, in the order they were compiled


def nvrtcVersion() -> Any:
    return OK, 12, 9


def nvrtcGetErrorString(result: int) -> Any:
    return OK, nvrtcResult(result).name.encode()


def nvrtcCreateProgram(src: bytes, name: bytes, numHeaders: int, headers: Any, includeNames: Any) -> Any:
    if not isinstance(src, bytes) or not isinstance(name, bytes):
        raise TypeError("expected bytes")
    handle = new_handle()
    programs[handle] = {"source": src, "log": b"\0", "cubin": b""}
    return OK, nvrtcProgram(handle)


def nvrtcCompileProgram(prog: Any, numOptions: int, options: Any) -> Any:
    """Fails on a source that says #error, and for a GPU that this compiler does not know."""
    program = programs[int(prog)]
    target = next((text.partition(b"=")[2].decode() for text in options if b"gpu-architecture=" in text), "")
    if numOptions != len(options) or target not in ARCHITECTURES:
        program["log"] = b"nvrtc: error: invalid value for --gpu-architecture (-arch)\n\0"
        return (nvrtcResult.NVRTC_ERROR_INVALID_OPTION,)
    if b"#error" in program["source"]:
        program["log"] = b"default_program(1): error: #error directive\n\0"
        return (nvrtcResult.NVRTC_ERROR_COMPILATION,)
    kernels = [name.decode() for name in KERNEL.findall(program["source"])]
    program["cubin"] = MAGIC + json.dumps({"arch": target, "kernels": kernels}).encode()
    compiled.append(program["source"])
    return (OK,)


def _size(prog: Any, what: str) -> Any:
    return OK, len(programs[int(prog)][what])


def _fill(prog: Any, what: str, buffer: bytes) -> Any:
    """The bytes object itself is written into, as cuda-python does."""
    value = programs[int(prog)][what]
    if len(buffer) < len(value):
        raise MemoryError(f"{len(value)} bytes do not fit {len(buffer)}")
    if value and len(buffer) < 2:
        raise AssertionError(
            "bytes of length 0 and 1 are shared by the whole interpreter; writing there changes them all"
        )
    ctypes.memmove(buffer, value, len(value))
    return (OK,)


def nvrtcGetCUBINSize(prog: Any) -> Any:
    return _size(prog, "cubin")


def nvrtcGetCUBIN(prog: Any, cubin: bytes) -> Any:
    return _fill(prog, "cubin", cubin)


def nvrtcGetProgramLogSize(prog: Any) -> Any:
    return _size(prog, "log")


def nvrtcGetProgramLog(prog: Any, log: bytes) -> Any:
    return _fill(prog, "log", log)


def nvrtcDestroyProgram(prog: Any) -> Any:
    return (OK if programs.pop(int(prog), None) else nvrtcResult.NVRTC_ERROR_INVALID_PROGRAM,)
