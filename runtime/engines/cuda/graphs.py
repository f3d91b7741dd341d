"""Captured work, replayed by one call. A graph fits exactly the addresses and shapes it was captured with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from cuda.bindings import runtime as cudart

from runtime.engines.cuda.library import call
from runtime.errors import EngineError

KEPT = 16  # graphs; each holds the launch parameters of one step
MODE = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads may allocate meanwhile


class Graphs:
    """Graphs by key. The first time of a key runs as it is, the second is captured, all later ones are replayed."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()  # None: ran once, not captured yet
        self.refused: str | None = None  # why capturing does not work here; from then on all runs as it is

    def run(self, key: Hashable, action: Callable[[], None]) -> None:
        """Do `action` now, which asks only for work on the stream and allocates nothing."""
        if self.refused is not None or key not in self._kept:
            action()  # a library may allocate on its first run, which capturing forbids
            self._keep(key, None)
            return
        self._kept.move_to_end(key)
        if self._kept[key] is None:
            self._kept[key] = self._capture(action)
        if self._kept[key] is None:
            action()
        else:
            call(cudart.cudaGraphLaunch, self._kept[key], self._stream)

    def clear(self) -> None:
        """Forget all graphs, for example because scratch memory has moved."""
        while self._kept:
            self._destroy(self._kept.popitem()[1])

    def _capture(self, action: Callable[[], None]) -> Any:
        """An instance of what `action` asks for; None, and `refused` says why, where that cannot be captured."""
        try:
            graph = self._recorded(action)
            try:
                return call(cudart.cudaGraphInstantiate, graph, 0)
            finally:
                cudart.cudaGraphDestroy(graph)
        except EngineError as error:
            self.refused = str(error)
            return None

    def _recorded(self, action: Callable[[], None]) -> Any:
        """Whatever ends `action` early, also Ctrl-C: a stream left capturing would never do anything again."""
        call(cudart.cudaStreamBeginCapture, self._stream, MODE)
        try:
            action()
        except BaseException:
            error, graph = cudart.cudaStreamEndCapture(self._stream)
            if int(error) == 0:
                cudart.cudaGraphDestroy(graph)
            cudart.cudaGetLastError()  # forget it: libraries look for it after their own launches
            raise
        return call(cudart.cudaStreamEndCapture, self._stream)

    def _keep(self, key: Hashable, instance: Any) -> None:
        self._kept[key] = instance
        while len(self._kept) > KEPT:
            self._destroy(self._kept.popitem(last=False)[1])

    def _destroy(self, instance: Any) -> None:
        if instance is not None:
            cudart.cudaGraphExecDestroy(instance)
