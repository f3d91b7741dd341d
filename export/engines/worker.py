"""The child process: `python -m export.engines.worker`, a job on stdin, events on stdout, the log on stderr.

TensorRT can end the process it runs in. Here that costs one graph, and the parent makes a sentence of it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from export.engines.job import Job
from runtime.errors import SceneError

SHORTEST = 0.1  # seconds between two reports of progress


def main() -> None:
    """Build one graph. Ends the process itself: destructors of a library that failed may fail again."""
    emit = _emitter(_private_stdout())
    code = 1
    try:
        job = Job.from_line(sys.stdin.readline())
        threading.Thread(target=_end_with_parent, daemon=True).start()
        _compile(job, emit)
        code = 0
    except SceneError as error:
        emit("error", text=str(error))
    except BaseException as error:
        traceback.print_exc()
        emit("error", text=f"the build stopped: {type(error).__name__}: {' '.join(str(error).split())}")
    sys.stderr.flush()
    os._exit(code)


def _compile(job: Job, emit: Callable[..., None]) -> None:
    from export.engines.compile import compile_graph  # here, so that a library that does not load is an event too

    compile_graph(job, emit)


def _emitter(file: TextIO) -> Callable[..., None]:
    last = 0.0

    def emit(event: str, **facts: Any) -> None:
        nonlocal last
        if event == "progress":
            if time.monotonic() - last < SHORTEST:
                return
            last = time.monotonic()
        print(json.dumps({"event": event, **facts}), file=file, flush=True)

    return emit


def _private_stdout() -> TextIO:
    """The pipe to the parent; whatever a library prints to stdout goes into the log instead."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _end_with_parent() -> None:
    """The parent never closes our stdin: its end means that the parent is gone, and with it who wants the plan."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
