"""A bundle's engines on a back end, loaded with time and memory written down, for the measurements of `engines`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.case import Case, upload
from benchmarks.gpu.report import Facts
from runtime.arrays import Array
from runtime.bundle import Bundle, file_digest
from runtime.decode import Decoder, KVCache
from runtime.decode.cache import ITEM_BYTES
from runtime.engines import Engine, Tensor, open_backend
from runtime.engines.cuda import gpu
from runtime.errors import EngineError
from runtime.run import Engines, Run

KEPT = ("bytes", "seconds", "warm", "layers", "reformats", "profiles", "plugins")  # of a plan's record


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the measurements need. `decoder` is the one that the pipeline would use."""

    backend: Any
    bundle: Bundle
    engines: Engines
    decoder: Decoder
    case: Case

    def prompt(self) -> dict[str, Tensor]:
        """Prefill's inputs on the device."""
        return upload(self.backend, self.engines.prefill, self.case.inputs("prefill"))

    def start(self, feeds: dict[str, Tensor]) -> tuple[Array, KVCache]:
        """Prefill: logits [1, V] and the filled cache."""
        return self.decoder.start(feeds, [self.case.rows], self.case.rows)

    def step(self, token: int, cache: KVCache) -> Array:
        """One step through the host: logits [V]."""
        return np.asarray(self.decoder.step(np.array([[token]], np.int32), cache)[0, -1], np.float32)


class Watched:
    """A back end whose `load` is timed and weighed; everything else is the back end's own."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.loads: dict[str, Facts] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def load(self, bundle: Bundle, graph: str) -> Engine:
        free, began = free_memory(), time.perf_counter()
        engine: Engine = self._backend.load(bundle, graph)
        self._backend.synchronize()
        seconds = round(time.perf_counter() - began, 3)
        self.loads[graph] = {"seconds": seconds, "device_mb": megabytes(free, free_memory())}
        return engine


class Loading:
    """From nothing to the first token, once, with the first use of everything in this process."""

    def __init__(self, folder: Path, backend: str, device: str, case: Case) -> None:
        self._folder, self._name, self._device, self._case = folder, backend, device, case
        self.loaded: Loaded | None = None

    def measure(self) -> Facts:
        """Load all. Seconds of each step, and the device memory that it took."""
        clock, forgotten = Steps(), forget_pages(self._folder.glob("engines/*/*.plan"))
        bundle = clock.step("bundle", self._open)
        backend = clock.step("library_and_device", lambda: open_backend(self._name, self._device))
        before = free_memory()
        watched = Watched(backend)
        engines = clock.step("engines", lambda: Engines.load(bundle, watched))
        engines = dataclasses.replace(engines, backend=backend)
        loaded = Loaded(backend, bundle, engines, Run(engines).decoder, self._case)
        after_engines, feeds = free_memory(), loaded.prompt()
        first = clock.step("first_prefill", lambda: int(loaded.start(feeds)[0].argmax()))
        self.loaded = loaded
        return {
            "plans_forgotten_by_system": forgotten,  # otherwise they come from its memory rather than from the disk
            "to_first_token_seconds": round(sum(clock.seconds.values()), 3),
            "steps_seconds": clock.seconds,
            "engines": watched.loads,
            "prefill_and_cache_mb": megabytes(after_engines, free_memory()),
            "total_mb": megabytes(before, free_memory()),
            "first_token": first,
            "tensorrt": getattr(sys.modules.get("tensorrt"), "__version__", None),
        }

    def _open(self) -> Bundle:
        """As `Pipeline.load` does: digests of what this back end reads; those of plans are its own business."""
        bundle = Bundle.open(self._folder, verify=False)
        bundle.verify(graphs=self._name != "tensorrt")
        return bundle


class Steps:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def step(self, name: str, action: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        value = action()
        self.seconds[name] = round(time.perf_counter() - began, 3)
        return value


def forget_pages(files: Iterable[Path]) -> bool:
    """Have the system forget what it keeps of files in memory; False where it cannot be asked to, or will not."""
    if not hasattr(os, "posix_fadvise"):
        return False
    try:
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())  # pages that are not written yet would stay
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    return True


def free_memory() -> int | None:
    """Free bytes of the current device as the driver counts them; None where there is no GPU or no bindings."""
    try:
        return gpu.free_memory()[0]
    except (EngineError, RuntimeError):  # no package, no driver
        return None


def megabytes(before: int | None, after: int | None) -> float | None:
    """How much less is free than before."""
    return None if before is None or after is None else round((before - after) / 1e6, 1)


def plans(folder: Path) -> Facts:
    """What `engine.json` says of each plan, by folder of engines."""
    found = {}
    for path in sorted(folder.glob("engines/*/engine.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        kept = {graph: {name: plan.get(name) for name in KEPT} for graph, plan in record["plans"].items()}
        names = ("tensorrt", "cuda", "driver", "gpu", "precision", "opt_level", "strongly_typed")
        version = max(plan.get("plugins") or 0 for plan in record["plans"].values())
        facts = {name: record.get(name) for name in names}
        found[path.parent.name] = {**facts, "plugins": version, "plans": kept}
    return found


def plugins(folder: Path) -> int:
    """Version of our plugin library that the bundle's engines need; 0: none."""
    return max([0, *(facts["plugins"] for facts in plans(folder).values())])


def plan_files(folder: Path) -> Facts:
    """Seconds that reading the plans once takes, and their digests: parts of the time to load."""
    files = sorted(folder.glob("engines/*/*.plan"))
    clock = Steps()
    clock.step("read", lambda: [path.read_bytes()[:1] for path in files])
    clock.step("digest", lambda: [file_digest(path) for path in files])
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files), "seconds": clock.seconds}


def memory(loaded: Loaded) -> Facts:
    """Bytes of the cache and of the plans, beside what the device has free."""
    manifest, feeds = loaded.bundle.manifest, loaded.prompt()
    spec, width = manifest.language_model, ITEM_BYTES[manifest.precision]
    _, cache = loaded.start(feeds)
    row = 2 * spec.layers * spec.kv_heads * spec.head_dim * width
    weights = {graph: manifest.files[file].bytes for graph, file in manifest.weights.items()}
    pool = getattr(getattr(loaded.backend, "pool", None), "reserved", None)
    scratch = getattr(getattr(loaded.backend, "scratch", None), "bytes", None)
    return {
        "cache_capacity": cache.capacity,
        "cache_bytes": cache.capacity * row,
        "weight_file_bytes": weights,
        "scratch_bytes": scratch,  # activations: one piece that all engines work in
        "pool_bytes": pool,  # all that the runtime asked of the device: scratch, cache, inputs, outputs
        "device_free_bytes": free_memory(),
        "plans": plans(loaded.bundle.folder),
    }
