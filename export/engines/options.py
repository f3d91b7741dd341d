"""What the user chooses about a build, checked before anything is done."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from export.engines.islands import ISLANDS
from export.engines.profiles import Limits
from runtime.engines.record import LAYOUTS, SEPARATE
from runtime.errors import SceneError

OPT_LEVELS = range(6)
MAX_JOBS = 32
DEFAULT_OPT_LEVEL = 3
RESERVE, RESERVED_SHARE = 1 << 30, 0.05  # device memory left to CUDA itself and to other programs
SMALLEST_WORKSPACE = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of `python -m export.build`."""

    limits: Limits = field(default_factory=Limits)
    language_model: str | None = None  # one of LAYOUTS; None: what suits the bundle and TensorRT
    graphs: tuple[str, ...] | None = None  # plans to build anew; None: all
    opt_level: int = DEFAULT_OPT_LEVEL
    workspace: float | None = None  # GB; None: what is free, less a reserve
    timing_cache: Path | None = None  # None: in the user's cache folder
    version_compatible: bool = False
    hardware_compatible: bool = False
    device: int = 0
    jobs: int | None = None  # builds at a time; None: as many as there is room for where there are segments, else 1
    islands: tuple[str, ...] | None = None  # of the language model; None: the defaults of each graph
    direct_io: bool = False
    plugins: bool | None = None  # prefill and decode by kernels of our library; None: where they have proven better

    def check(self) -> None:
        """Raise SceneError for what no build can do."""
        if self.opt_level not in OPT_LEVELS:
            raise SceneError(f"--opt_level is {self.opt_level}, but 0 to {OPT_LEVELS[-1]} were expected.")
        if self.workspace is not None and not 0 < self.workspace < 1e6:
            raise SceneError(f"--workspace is {self.workspace:g}, but a size in GB above 0 was expected.")
        if self.jobs is not None and not 1 <= self.jobs <= MAX_JOBS:
            raise SceneError(f"--jobs is {self.jobs}, but 1 to {MAX_JOBS} were expected.")
        if self.language_model is not None and self.language_model not in LAYOUTS:
            raise SceneError(f"--language_model is {self.language_model!r}, but {' or '.join(LAYOUTS)} was expected.")
        if unknown := sorted(set(self.islands or ()) - set(ISLANDS)):
            raise SceneError(f"--islands names {unknown[0]!r}, but there are {', '.join(ISLANDS)}.")
        if self.plugins:
            self._check_plugins()

    def _check_plugins(self) -> None:
        """The kernels are a node each for prefill and decode, on the GPUs they were compiled for."""
        if self.language_model not in (None, SEPARATE):
            raise SceneError(
                f"--plugins makes an engine for prefill and one for decode: it goes with --language_model {SEPARATE} "
                f"alone, not with {self.language_model}."
            )
        if self.islands is not None:
            raise SceneError("--islands is about TensorRT's own layers, of which --plugins leaves none in these parts.")
        if self.hardware_compatible:
            raise SceneError("--plugins is for one kind of GPU, so it does not go with --hardware_compatible.")


def device_index(text: str) -> int:
    """The number in `cuda:N`. Raises SceneError."""
    if not (match := re.fullmatch(r"cuda(?::(\d{1,3}))?", text)):
        raise SceneError(f"--device is {text!r}, but cuda:0, cuda:1 or so on was expected.")
    return int(match[1] or 0)


def default_workspace(free: int, total: int, sharing: int) -> int:
    """Bytes that the builder may use for scratch: what is free less a reserve, divided among builds at one time.

    The builder times kernels with real buffers; with little workspace it skips good ones or finds none at all.
    """
    return max(SMALLEST_WORKSPACE, (free - max(RESERVE, int(RESERVED_SHARE * total))) // sharing)
