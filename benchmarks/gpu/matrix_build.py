"""One plan of the build matrix, in a process of its own, and bundles of the plans that were built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import Facts
from export.engines.children import last_errors
from export.engines.job import Job, Outcome
from export.engines.kept import copy_plan
from export.engines.options import BuildOptions
from export.engines.plans import Task, Toolchain, blank_record, graph_digests
from runtime.bundle import Bundle
from runtime.engines.record import EngineRecord, PlanRecord, engine_folder

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("seconds", "bytes", "layers", "reformats", "islands")


@dataclass(frozen=True, slots=True)
class Built:
    """A plan and where it lies."""

    folder: Path
    record: PlanRecord
    facts: Facts


def build(task: Task, plan: str, limit: float, stop: threading.Event) -> Built:
    """Build a plan in `limit` seconds. Raises TimeoutError, or RuntimeError with what TensorRT said."""
    if stop.is_set() or limit <= 0:
        raise TimeoutError("not begun")
    task.folder.mkdir(parents=True, exist_ok=True)
    job = task.job(plan, graph_digests(task.bundle.manifest, [plan])[plan])
    began, outcome = time.perf_counter(), Outcome()
    with _worker(job, limit, stop) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(job.to_line() + "\n")
        process.stdin.flush()  # and left open: its end would end the build
        for line in process.stdout:
            with suppress(ValueError):  # cut short by the end of the process
                outcome.take(json.loads(line))
    seconds = round(time.perf_counter() - began, 1)
    if outcome.record is None:
        if seconds >= limit:
            raise TimeoutError(f"not built in {seconds:.0f} s")
        said = outcome.error or last_errors(job.log.read_text(encoding="utf-8", errors="replace"))
        raise RuntimeError(f"{said or 'no word'} (after {seconds:.0f} s)")
    kept = {name: getattr(outcome.record, name) for name in KEPT}
    facts = {**kept, "with_start_seconds": seconds, "opt_level": job.opt_level, "direct_io": job.direct_io}
    return Built(task.folder, outcome.record, facts)


@contextmanager
def _worker(job: Job, limit: float, stop: threading.Event) -> Iterator[subprocess.Popen[str]]:
    """The process that builds; it ends at the limit, or when `stop` is set."""
    command = [sys.executable, "-m", "export.engines.worker"]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"CUDA_MODULE_LOADING": "LAZY"} | os.environ | {"PYTHONPATH": paths}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with job.log.open("wb") as log, subprocess.Popen(command, stderr=log, env=environment, **pipes) as process:
        watch = threading.Thread(target=_end_in_time, args=(process, limit, stop), daemon=True)
        watch.start()
        try:
            yield process
        finally:
            process.wait()


def _end_in_time(process: subprocess.Popen[str], limit: float, stop: threading.Event) -> None:
    end = time.monotonic() + limit
    while process.poll() is None and not stop.wait(0.2):
        if time.monotonic() >= end:
            break
    process.kill()


def assemble(
    target: Path, bundle: Bundle, plans: Mapping[str, Built], options: BuildOptions, tools: Toolchain
) -> EngineRecord:
    """A bundle whose engines are these plans, its files links to the bundle's own where the system has links."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle.folder, target, copy_function=_link, ignore=shutil.ignore_patterns("engines"))
    manifest = bundle.manifest
    folder = engine_folder(target, tools.gpu.name, tools.tensorrt, manifest.precision)
    folder.mkdir(parents=True)
    for plan, built in plans.items():
        copy_plan(built.folder, folder, plan)
    levels = [built.facts["opt_level"] for plan, built in plans.items() if plan != "encoder"]
    blank = blank_record(manifest, replace(options, opt_level=levels[0]), tools)
    record = replace(blank, plans={plan: built.record for plan, built in plans.items()})
    record.write(folder)
    return record


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
