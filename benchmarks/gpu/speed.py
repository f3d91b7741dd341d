"""Milliseconds of the engines and of the loops around them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.case import upload
from benchmarks.gpu.loaded import Loaded
from benchmarks.gpu.report import Facts, spread, timed
from runtime.decode.device import DeviceLoop
from runtime.engines import Engine, Tensor

ROUNDS = 5  # generations, of which the first two only warm up: a graph is captured the second time
WARM_UP = 2
BACK_TO_BACK = 50  # engine runs asked for before the host waits


class Uncaptured:
    """Step kernels that never replay a graph; everything else is the back end's own."""

    def __init__(self, steps: Any) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._steps, name)

    def replay(self, tensors: Sequence[Tensor], action: Callable[[], None]) -> None:
        action()


class Speed:
    """Each method is one part of the result."""

    def __init__(self, loaded: Loaded, tokens: int, runs: int) -> None:
        self._loaded, self._tokens, self._runs = loaded, tokens, runs
        self._feeds = loaded.prompt()
        self._text: list[int] | None = None  # of the plain loop

    def parts(self) -> dict[str, Callable[[], Facts]]:
        """By name."""
        return {
            "prefill_speed": self.prefill,
            "decode_engine_speed": self.engine,
            "decode_plain_speed": self.plain,
            "decode_device_loop_speed": lambda: self.device_loop(captured=False),
            "decode_device_graph_speed": lambda: self.device_loop(captured=True),
            "encoder_speed": self.encoder,
        }

    def prefill(self) -> Facts:
        """The engine alone with its outputs bound, and `Decoder.start`: a new cache, and logits on the host."""
        engine, synchronize = self._loaded.engines.prefill, self._loaded.backend.synchronize
        outputs = engine.run(self._feeds)
        alone = timed(lambda: engine.run(self._feeds, outputs), synchronize, self._runs)
        return {"engine": alone, "to_logits": timed(lambda: self._loaded.start(self._feeds), synchronize, self._runs)}

    def encoder(self) -> Facts:
        """The engine alone, and with its inputs' way to the device."""
        loaded, arrays = self._loaded, self._loaded.case.inputs("encoder")
        engine, synchronize = loaded.engines.encoder, loaded.backend.synchronize
        arrays = {name: np.array(array) for name, array in arrays.items()}
        feeds = upload(loaded.backend, engine, arrays)
        outputs = engine.run(feeds)
        alone = timed(lambda: engine.run(feeds, outputs), synchronize, self._runs)
        upload_ms = timed(lambda: upload(loaded.backend, engine, arrays), synchronize, self._runs)
        return {"engine": alone, "upload": upload_ms}

    def engine(self) -> Facts:
        """The decode engine alone, one run after another without a graph, by rows of the cache that it is given."""
        return {"rows": {str(rows): self._engine_over(rows) for rows in self._prefixes()}}

    def plain(self) -> Facts:
        """Token by token through the host: inputs up, logits down, the choice in numpy."""
        steps = [self._timed_steps() for _ in range(2)][1]
        by_rows = defaultdict(list)
        for rows, milliseconds in steps:
            by_rows[str(rows)].append(milliseconds)
        per_token = spread([milliseconds for _, milliseconds in steps])
        return {"per_token": per_token, "rows": {rows: spread(times) for rows, times in by_rows.items()}}

    def device_loop(self, *, captured: bool) -> Facts:
        """Tokens chosen on the device. Milliseconds per token over whole generations, first token excepted."""
        loaded, steps = self._loaded, self._loaded.backend.steps
        if steps is None:
            return {"skipped": f"the back end {loaded.backend.name!r} has no step kernels"}
        kernels = steps if captured else Uncaptured(steps)
        table = tuple(loaded.backend.upload(half) for half in loaded.engines.text_table)
        runs = [self._generation(kernels, table) for _ in range(ROUNDS)][WARM_UP:]
        times = [seconds * 1e3 / (self._tokens - 1) for seconds, _ in runs]
        refused = getattr(getattr(steps, "graphs", None), "refused", None)
        same = None if self._text is None else all(text == self._text for _, text in runs)  # None: nothing to compare
        facts = {"per_token": spread(times), "same_as_plain_loop": same, "rows": self.rows_used()}
        return {**facts, "graph_refused": refused}

    def _generation(self, kernels: Any, table: tuple[Tensor, ...]) -> tuple[float, list[int]]:
        """Seconds from the first token to the last, and the tokens."""
        loaded = self._loaded
        logits, cache = loaded.start(self._feeds)
        first = logits.argmax(-1).astype(np.int32)
        loaded.backend.synchronize()
        began = time.perf_counter()
        loop = DeviceLoop(loaded.backend, kernels, loaded.engines.decode, cache, table, ())
        tokens = _first_of_batch(loop.tokens(first, [False], self._tokens - 1))
        return time.perf_counter() - began, [int(first[0]), *tokens]

    def _timed_steps(self) -> list[tuple[int, float]]:
        """Rows of the prefix and milliseconds of each step."""
        logits, cache = self._loaded.start(self._feeds)
        text, steps = [int(logits[0].argmax())], []
        for _ in range(self._tokens - 1):
            rows = cache.past_rows()
            began = time.perf_counter()
            text.append(int(self._loaded.step(text[-1], cache).argmax()))
            steps.append((rows, (time.perf_counter() - began) * 1e3))
        self._text = text
        return steps

    def rows_used(self) -> list[int]:
        """Prefixes that a generation reads."""
        _, cache = self._loaded.start(self._feeds)
        return sorted({cache.past_rows(ahead) for ahead in range(self._tokens - 1)})

    def _prefixes(self) -> list[int]:
        """Of the generation, and the whole cache."""
        return sorted({*self.rows_used(), self._loaded.engines.manifest.cache.capacity})

    def _engine_over(self, rows: int) -> Facts:
        backend, engine = self._loaded.backend, self._loaded.engines.decode
        feeds = self.decode_feeds(engine, rows)
        outputs = engine.run(feeds)
        backend.synchronize()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(BACK_TO_BACK):
                engine.run(feeds, outputs)
            backend.synchronize()
            times.append((time.perf_counter() - began) * 1e3 / BACK_TO_BACK)
        return spread(times)

    def decode_feeds(self, engine: Engine, rows: int) -> dict[str, Tensor]:
        """Zeros everywhere but in `past_length`, which is all rows but one."""
        sizes = {"B": 1, "T": 1, "M": rows}
        feeds = {}
        for name, spec in engine.inputs.items():
            shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
            feeds[name] = self._loaded.backend.zeros(shape, spec.dtype)
        feeds["past_length"] = self._loaded.backend.upload(np.array([rows - 1], np.int32))
        return feeds


def _first_of_batch(steps: Iterable[list[int | None]]) -> list[int]:
    return [int(step[0]) for step in steps if step[0] is not None]
