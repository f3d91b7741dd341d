"""The parent's side of the builds: one child process for each graph, a few at a time."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from export.engines.job import Job, Outcome
from export.engines.messages import messages, one_line
from export.engines.progress import Bars
from runtime.errors import EngineError
from runtime.files import cache_folder

ROOT = Path(__file__).resolve().parents[2]  # where `export` can be imported from
TAIL = 1 << 16  # bytes of a log that are searched for what went wrong
TICK = 1.0  # seconds
Event = tuple[str, dict[str, Any]]  # graph, what its process says


def run_jobs(jobs: Sequence[Job], at_once: int, bars: Bars) -> dict[str, Outcome]:
    """Build all, at most `at_once` together. On an error or an interrupt no process is left. Raises EngineError."""
    waiting, outcomes = deque(jobs), {job.graph: Outcome() for job in jobs}
    running: dict[str, _Child] = {}
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                running[job.graph] = _Child(job, events)
                bars.start(job.graph)
            try:
                graph, event = events.get(timeout=TICK)
            except queue.Empty:
                bars.tick()
                continue
            outcomes[graph].take(event)
            bars.show(graph, event)
            if event.get("event") == "end":
                _judge(running.pop(graph), outcomes[graph], int(event["code"]))
    finally:
        for child in running.values():
            child.kill()
    return outcomes


class _Child:
    """A running build. A thread turns its lines into events; the last is `end` with the exit code."""

    def __init__(self, job: Job, events: queue.SimpleQueue[Event]) -> None:
        self.job, self._events = job, events
        with job.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "export.engines.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=_environment(),
                start_new_session=True,  # Ctrl-C reaches the parent alone, who then ends the child
            )
        threading.Thread(target=self._follow, daemon=True).start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _follow(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # it ended before it read; what it said is in the log
            self._process.stdin.write(self.job.to_line() + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            with suppress(ValueError):  # cut short by the end of the process
                self._events.put((self.job.graph, json.loads(line)))
        code = self._process.wait()
        self._events.put((self.job.graph, {"event": "end", "code": code}))


def _environment() -> dict[str, str]:
    """Ours, with `export` to be found, and kernels loaded when first used: loading all takes device memory."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"CUDA_MODULE_LOADING": "LAZY"} | os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _judge(child: _Child, outcome: Outcome, code: int) -> None:
    """Raise EngineError unless there is a plan; once there is, an abrupt end costs the timing cache only."""
    if outcome.record is None and outcome.error is not None:
        raise EngineError(f"{outcome.error}{_kept(child.job)}")
    if outcome.record is None:
        said = last_errors(_tail(child.job.log))
        raise EngineError(
            f"{child.job.graph}: the process that builds the engine {_ending(code)}"
            f"{f'; it said: {said}' if said else ' without a word'}.{_kept(child.job)}"
        )
    if code != 0 and not outcome.timing_saved:
        reason = outcome.error or f"the process {_ending(code)}; an incomplete cuDNN is a known cause"
        outcome.notes.append(
            f"{child.job.graph}: the engine is whole, but the timing cache could not be saved ({reason}). "
            f"The next build will take as long."
        )


def last_errors(log: str, count: int = 2) -> str:
    """The last errors in a log, or its last line where none is marked as one."""
    lines = [one_line(line) for line in log.splitlines() if line.strip()]
    return "; ".join((messages(lines).errors or lines[-1:])[-count:])[:1000]


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (" (the system may have run out of memory)" if name == "SIGKILL" else "")
    return f"was ended by signal {-code}"


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read(TAIL).decode("utf-8", errors="replace")


def _kept(job: Job) -> str:
    """Save the log of a failed build from the folder that goes, and say where it is."""
    try:
        folder = cache_folder() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        kept = shutil.copyfile(job.log, folder / f"{job.key}-{job.graph}.log")
    except OSError:
        return ""
    return f" Its log: {kept}"
