"""What the machine is and can do, for the benchmarks' JSON lines."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np


def cpu_name() -> str:
    """The processor's model where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """The facts every result names."""
    return {"device": cpu_name(), "cores": cores(), "python": platform.python_version()}


def peak_memory_gb() -> float:
    """The largest resident set of this process so far, mapped files included, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def read_bandwidth_gbs(gigabytes: float = 1.0, repeats: int = 5) -> float:
    """GB/s of a plain streaming read: a dot product per core over its share of a buffer larger than any cache."""
    shares = np.array_split(np.ones(int(gigabytes * 1e9 / 4), np.float32), cores())
    with ThreadPoolExecutor(cores()) as pool:
        seconds = []
        for _ in range(repeats + 1):  # the first is the warm-up
            started = time.perf_counter()
            list(pool.map(lambda share: float(share @ share), shares))
            seconds.append(time.perf_counter() - started)
    return gigabytes / statistics.median(seconds[1:])
