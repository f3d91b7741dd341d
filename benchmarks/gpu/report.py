"""A result file that grows part by part: a part that fails is named in it, and the others are kept."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from runtime.manifest import LanguageModelSpec

Facts = dict[str, Any]


class Report:
    """Facts of one benchmark, on disk after every part."""

    def __init__(self, output: Path, benchmark: str, facts: Facts) -> None:
        self._output = output
        self.facts: Facts = {"benchmark": benchmark, "command": command_line(benchmark), **describe_gpu(), **facts}
        self.failed = False

    def part(self, name: str, measure: Callable[[], Facts]) -> Facts | None:
        """Run one part and write what it gave; None, and the error in the file, where it fails."""
        began = time.perf_counter()
        try:
            facts = measure()
        except Exception as error:  # whatever a library raises: the other parts are worth having
            traceback.print_exc()
            facts, self.failed = {"error": f"{type(error).__name__}: {error}"[:1000]}, True
        self.facts[name] = facts | {"part_seconds": round(time.perf_counter() - began, 2)}
        print(f"{name}: {json.dumps(self.facts[name])[:600]}", file=sys.stderr, flush=True)
        write_json(self._output, self.facts)
        return None if "error" in facts else facts

    def finish(self) -> int:
        """Print the last line; the exit status is 1 where a part failed."""
        print(json.dumps(self.facts), flush=True)
        return int(self.failed)


def write_json(path: Path, facts: Facts) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def say(folder: Path, facts: Facts) -> None:
    """A line of JSON as it comes: on the terminal, and behind the others in the folder's log."""
    line = json.dumps(facts)
    print(line, flush=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def command_line(benchmark: str) -> str:
    """What was called; absolute paths by their last name, because folders differ from machine to machine."""
    arguments = (Path(word).name if word.startswith("/") else word for word in sys.argv[1:])
    return " ".join(["python -m", f"benchmarks.gpu.{benchmark}", *arguments])


def describe_gpu() -> Facts:
    """Name and driver of the first GPU as nvidia-smi tells them, beside the host's facts."""
    host = {("host" if name == "device" else name): value for name, value in describe().items()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return {"device": "no GPU", **host}
    name, driver, memory = (word.strip() for word in said.splitlines()[0].split(","))
    return {"device": name, "driver": driver, "device_memory": memory, **host}


def model_facts(spec: LanguageModelSpec, precision: str) -> Facts:
    """By these, results of the same model are found."""
    names = ("family", "layers", "hidden_size", "heads", "kv_heads", "vocab_size")
    return {"model": {name: getattr(spec, name) for name in names}, "precision": precision}


def spread(milliseconds: list[float]) -> Facts:
    """Median and extremes of one kind of measurement."""
    ends = {"min_ms": round(min(milliseconds), 4), "max_ms": round(max(milliseconds), 4)}
    return {"ms": round(statistics.median(milliseconds), 4), **ends, "runs": len(milliseconds)}


def timed(action: Callable[[], object], synchronize: Callable[[], object], runs: int, warm_up: int = 3) -> Facts:
    """Wall clock of `runs` calls, each waited for, after some that are not counted."""
    times = []
    for number in range(warm_up + runs):
        synchronize()
        began = time.perf_counter()
        action()
        synchronize()
        if number >= warm_up:
            times.append((time.perf_counter() - began) * 1e3)
    return spread(times)


def digits(value: object) -> float:
    """A number for a result file: 7 digits suffice, but 1 - 1e-9 must not become 1."""
    return float(np.format_float_positional(np.float64(value), precision=10, trim="-"))
