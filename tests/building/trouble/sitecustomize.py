"""Python imports this at its start: trouble in the processes that build, chosen by the environment.

TROUBLE            without:NAME,NAME  packages that cannot be imported, in every process
                   sleep, abort, exit, memory, messages, print  what happens when TensorRT builds TROUBLE_GRAPH
TROUBLE_MARK       a file made when the sleep begins
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

WANTED = os.environ.get("TROUBLE", "")


class Blocker:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in WANTED.removeprefix("without:").split(","):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


def _trouble(builder: Any, network: Any, config: Any) -> Any:
    if os.environ["TROUBLE_GRAPH"] in Path(network._source).name:
        if WANTED == "sleep":
            Path(os.environ["TROUBLE_MARK"]).write_text(str(os.getpid()))
            time.sleep(60)
        if WANTED == "abort":
            print("F: an assertion failed", file=sys.stderr, flush=True)
            os.abort()
        if WANTED == "exit":
            os._exit(3)
        if WANTED == "print":
            os.write(1, b'{"event": "plan", "record": {}}\nnoise of a library\n')
        if WANTED == "messages":
            assert type(builder.logger) is tensorrt.Logger, "a class of Python would be called for each message"
            for severity, text in (("WARNING", "a warning twice."), ("VERBOSE", "verbose"), ("WARNING", "another")) * 2:
                builder._log(severity, text)
        if WANTED == "memory":
            builder._fail("[engine.cpp] Error Code 2: OutOfMemory (no further information)")
            builder._fail("[builder.cpp] Error Code 2: Internal Error (Assertion engine != nullptr failed. )")
            return None
    return _real(builder, network, config)


if WANTED.startswith("without:"):
    sys.meta_path.insert(0, Blocker())  # type: ignore[arg-type]
elif WANTED and "export.engines.worker" in sys.orig_argv:
    import tensorrt

    _real = tensorrt.Builder.build_serialized_network
    tensorrt.Builder.build_serialized_network = _trouble
