"""The compiled library: where it lies, which version it is, which kernels it has. Looking needs no TensorRT."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plugins.decode_step.sizes import Sizes
from plugins.language_model.arguments import ModelSizes

VERSION = 4
VARIABLE = "SPATIALLM_PLUGINS"  # the environment names another file
BUILD = "make plugins"
NODES = "SpatialLM"  # how the names of its nodes begin, and so what they say in TensorRT's log


class LibraryError(Exception):
    """The library is absent, too old, or does not load; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Library:
    """A library that loads."""

    path: Path
    version: int
    tensorrt: int  # major version of the headers that it was built with
    architectures: tuple[str, ...]  # of GPUs, oldest first, e.g. ("sm_80", "sm_90")
    _decode_steps: tuple[bytes, ...]  # sizes, as the library has them

    def has_decode_step(self, sizes: Sizes) -> bool:
        """Whether a kernel was compiled for these sizes."""
        return bytes(ModelSizes.of(sizes)) in self._decode_steps

    def runs_on(self, compute_capability: str) -> bool:
        """Whether a GPU, e.g. of "9.0", takes its kernels: machine code of the same major version, or made anew."""
        here = int(compute_capability.replace(".", ""))
        built = [int(kind.removeprefix("sm_")) for kind in self.architectures]
        return any(number <= here and number // 10 == here // 10 for number in built) or built[-1] <= here

    def misfit(self, gpu: str, compute_capability: str) -> str | None:
        """Why a GPU cannot run its kernels and what to do, or None."""
        if self.runs_on(compute_capability):
            return None
        kind = f"sm_{compute_capability.replace('.', '')}"
        return (
            f"the plugin library {self.path} was built for {', '.join(self.architectures)}, but {gpu} is {kind}. "
            f"Build it anew: {BUILD} PLUGIN_OPTIONS='--architecture {kind}'"
        )


def telling(errors: Sequence[str]) -> str | None:
    """Of TensorRT's errors, in order, the one that says most: what a node of ours said, for TensorRT says after it only
    that the node has failed; else the last."""
    return next((error for error in reversed(errors) if error.startswith(NODES)), errors[-1] if errors else None)


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
        if version != VERSION:
            raise LibraryError(
                f"the plugin library {path} has version {version}, but {VERSION} is needed. Build it anew: {BUILD}"
            )
        library = Library(path, version, major, _architectures(loaded), _decode_steps(loaded))
    except (OSError, AttributeError) as error:
        raise LibraryError(f"the plugin library {path} cannot be loaded ({error}). Build it anew: {BUILD}") from error
    if str(major) != tensorrt.partition(".")[0]:
        raise LibraryError(
            f"the plugin library {path} was built with the headers of TensorRT {major}, but {tensorrt} is installed. "
            f"Build it with its headers: TENSORRT_INCLUDE=FOLDER {BUILD}"
        )
    return library


def _architectures(loaded: ctypes.CDLL) -> tuple[str, ...]:
    loaded.spatiallm_plugins_architectures.restype = ctypes.c_char_p
    return tuple(loaded.spatiallm_plugins_architectures().decode().split(","))


def _decode_steps(loaded: ctypes.CDLL) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while loaded.spatiallm_plugins_decode_step(len(found), ctypes.byref(sizes := ModelSizes())):
        found.append(bytes(sizes))
    return tuple(found)
