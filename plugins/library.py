"""The compiled library: where it lies, which version it is, which kernels it has. Looking needs no TensorRT."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from plugins.decode_step.sizes import Sizes

VERSION = 1  # of what the library's nodes are given and give; a new one for every change that engines would notice
VARIABLE = "SPATIALLM_PLUGINS"  # the environment names another file
BUILD = "make plugins"
_FIELDS = ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocabulary", "qkv_bias", "bf16")


class LibraryError(Exception):
    """The library is absent, too old, or does not load; the text says what to do."""


class _Sizes(ctypes.Structure):
    """`DecodeStepSizes` of decode_step/launch.h."""

    _fields_ = [*((name, ctypes.c_int) for name in _FIELDS), ("epsilon", ctypes.c_float)]

    def same(self, sizes: Sizes) -> bool:
        whole = all(getattr(self, name) == int(getattr(sizes, name)) for name in _FIELDS)
        return whole and self.epsilon == ctypes.c_float(sizes.epsilon).value


@dataclass(frozen=True, slots=True)
class Library:
    """A library that loads."""

    path: Path
    version: int
    tensorrt: int  # major version of the headers that it was built with
    _decode_steps: tuple[_Sizes, ...]

    def has_decode_step(self, sizes: Sizes) -> bool:
        """Whether a kernel was compiled for these sizes."""
        return any(found.same(sizes) for found in self._decode_steps)


def library_path() -> Path:
    """Where the library is, or would be."""
    return Path(os.environ.get(VARIABLE) or Path(__file__).with_name("build") / "libspatiallm_plugins.so")


def open_library(tensorrt: str) -> Library:
    """The library for a TensorRT, e.g. "8.6.0". Raises LibraryError."""
    path = library_path()
    if not path.is_file():
        raise LibraryError(f"the plugin library {path} is not there. Build it: {BUILD}")
    try:
        loaded = ctypes.CDLL(str(path.resolve()))
        version, major = loaded.spatiallm_plugins_version(), loaded.spatiallm_plugins_tensorrt()
        library = Library(path, version, major, _decode_steps(loaded))
    except (OSError, AttributeError) as error:
        raise LibraryError(f"the plugin library {path} cannot be loaded ({error}). Build it anew: {BUILD}") from error
    if version != VERSION:
        raise LibraryError(
            f"the plugin library {path} has version {version}, but {VERSION} is needed. Build it anew: {BUILD}"
        )
    if str(major) != tensorrt.partition(".")[0]:
        raise LibraryError(
            f"the plugin library {path} was built with the headers of TensorRT {major}, but {tensorrt} is installed. "
            f"Build it with its headers: TENSORRT_INCLUDE=FOLDER {BUILD}"
        )
    return library


def _decode_steps(loaded: ctypes.CDLL) -> tuple[_Sizes, ...]:
    found: list[_Sizes] = []
    while loaded.spatiallm_plugins_decode_step(len(found), ctypes.byref(sizes := _Sizes())):
        found.append(sizes)
    return tuple(found)
