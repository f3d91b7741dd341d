"""The timing cache on disk: what TensorRT measured, so that the next build need not measure it again.

Beside the cache lies a list of the graphs that were built with it; only so can a build be called warm.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import EngineError
from runtime.files import cache_folder, read_small_text

LARGEST = 1 << 30  # bytes; a cache of all our graphs has a few megabytes
LIST_ENDING = ".graphs.json"


def default_file(gpu: str, tensorrt: str) -> Path:
    """Where the timing cache of a GPU and a TensorRT lies unless the user says otherwise."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return cache_folder() / f"timing-{slug}-trt{tensorrt}.cache"


@dataclass(frozen=True, slots=True)
class TimingFile:
    """A timing cache file and the list beside it."""

    path: Path

    def read(self) -> bytes:
        """The serialized cache; nothing where there is no file yet. Raises EngineError."""
        try:
            if not self.path.exists():
                return b""
            if not self.path.is_file() or (size := self.path.stat().st_size) > LARGEST:
                raise EngineError(f"{self.path}: is no timing cache. Choose another --timing_cache.")
            data = self.path.read_bytes()
        except OSError as error:
            raise EngineError(
                f"{self.path}: the timing cache cannot be read ({error.strerror}). Choose another --timing_cache."
            ) from error
        return data if size else b""

    def knows(self, data: bytes, graph: str) -> bool:
        """Whether a build of this graph went into the cache that holds `data`."""
        return graph in self._graphs(data)

    def update(self, graph: str, merge: Callable[[bytes], bytes]) -> None:
        """Write `merge(what stands there now)`, alone among processes, and list the graph. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._beside(".lock")):
            present = self.path.read_bytes() if self.path.is_file() else b""
            graphs = self._graphs(present) | {graph}
            data = merge(present)
            facts = {"sha256": _digest(data), "graphs": sorted(graphs)}
            self._put(data, self.path)
            self._put(json.dumps(facts, indent=1).encode(), self._beside(LIST_ENDING))

    def _graphs(self, data: bytes) -> set[str]:
        """The list, if it belongs to this very cache."""
        try:
            facts = json.loads(read_small_text(self._beside(LIST_ENDING)))
            return set(facts["graphs"]) if data and facts["sha256"] == _digest(data) else set()
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return set()

    def _put(self, data: bytes, path: Path) -> None:
        partial = path.with_name(path.name + ".partial")  # one name: a stopped process leaves at most one
        partial.write_bytes(data)
        partial.replace(path)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file as long as the block runs; the system frees it when the process ends."""
    with path.open("a") as file:  # nothing is lost where another file has that name
        if os.name == "posix":  # elsewhere the last writer wins, whole
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
