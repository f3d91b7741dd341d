"""What `prefill_step` measures in one process: the library's operators over one model with random weights."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.gpu.compiled import captured
from benchmarks.gpu.decode_step_parts import Facts, Model, Part, address, milliseconds, plain_read
from benchmarks.gpu.operators import Operators
from benchmarks.gpu.plain_model import forward
from plugins.decode_step.sizes import Sizes
from plugins.language_model.arguments import ModelWeights
from plugins.library import library_path

RUNS = 20
REPLAYS = 8  # between two events: a step is short
BEFORE, POINTS = 15, 0.7  # rows before the first point token; of all rows, how many are point tokens
Action = Callable[[], None]


class Measured:
    """Each part of `parts` is one line of the result."""

    def __init__(self, sizes: Sizes, args: argparse.Namespace) -> None:
        torch.backends.cuda.matmul.allow_tf32 = False
        self.args, self._sizes = args, sizes
        most = max([*args.rows, *(rows + 1 for _, rows in args.decode)])
        self.model = Model(sizes, most)
        self._operators = Operators(library_path())
        layers = {f"{i}.{name}": t for i, layer in enumerate(self.model.layers) for name, t in layer.items()}
        named = {"embedding": self.model.embedding, "final_norm": self.model.final_norm, **layers}
        self._weights = ModelWeights.of({name: address(t) for name, t in named.items() if t is not None}, sizes.layers)

    def parts(self) -> Iterator[Part]:
        """In the order in which they are worth having."""
        batch = self.args.batch
        for rows in self.args.rows:
            asked = Prefill(self, batch, rows)
            name = f"prefill_{batch}x{rows}"
            yield name, asked.ours
            if self.args.profile:
                yield f"{name}_kernels", partial(kernels, asked.launch)
            yield f"{name}_pytorch", asked.theirs
            if self.args.profile:
                yield f"{name}_pytorch_kernels", partial(kernels, asked.plain)
        yield "read", lambda: {"GB/s": self.bandwidth}
        for batch, rows in self.args.decode:
            step = Decode(self, batch, rows)
            yield f"decode_{batch}x{rows}", step.facts
            if self.args.profile:
                yield f"decode_{batch}x{rows}_kernels", partial(kernels, step.launch)

    @cached_property
    def bandwidth(self) -> int:
        """GB/s of a plain read of as much as the weights."""
        return int(plain_read(self._sizes.weight_bytes)["GB/s"])

    def room(self, batch: int, rows: int, past_rows: int, all_logits: bool) -> Tensor:
        size = self._operators.workspace(self._sizes, batch, rows, past_rows, all_logits)
        return torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")

    def run(self, given: dict[str, int | Tensor | None], workspace: Tensor) -> None:
        """The general operator, on the current stream."""
        self._operators.language_model(self._sizes, self._weights, addressed(given), workspace.data_ptr(), stream())

    def step_room(self) -> Tensor | None:
        """Workspace of the kernel for one token of one sequence; None where the library has none for the model."""
        size = self._operators.decode_step_workspace(self._sizes)
        return torch.zeros(size, dtype=torch.uint8, device="cuda") if size else None

    def step(self, given: dict[str, int | Tensor | None], workspace: Tensor) -> None:
        self._operators.decode_step(self._sizes, self._weights, addressed(given), workspace.data_ptr(), stream())


class Prefill:
    """B prompts of S rows, most of them point tokens with angles of their own."""

    def __init__(self, measured: Measured, batch: int, rows: int) -> None:
        self._measured, self._model = measured, measured.model
        s, dtype = measured.model.sizes, measured.model.dtype
        torch.manual_seed(rows)
        ids = torch.randint(s.vocabulary, (batch, rows), device="cuda", dtype=torch.int32)
        embeds = torch.randn(batch, rows, s.hidden, device="cuda").mul_(0.1).to(dtype)
        places = torch.arange(rows, device="cuda")
        at_point = ((places >= BEFORE) & (places < BEFORE + POINTS * rows)).expand(batch, rows).contiguous()
        tables = {f"{k}_1d": getattr(self._model, k)[:rows].expand(batch, -1, -1).contiguous() for k in ("cos", "sin")}
        angles = torch.rand(batch, rows, s.head_dim, device="cuda") * 6
        tables |= {"cos_3d": angles.cos(), "sin_3d": angles.sin()}
        self._logits = torch.full((batch, s.vocabulary), torch.nan, device="cuda")
        heads = 2 * s.layers * s.kv_heads
        self._rows = torch.full((rows, batch, heads, s.head_dim), torch.nan, device="cuda", dtype=dtype)
        self._given = {"batch": batch, "rows": rows, "causal": 1, "ids": ids, "point_embeds": embeds, **tables}
        self._given |= {"point_mask": at_point.to(torch.uint8), "logits": self._logits, "new_rows": self._rows}
        self._given |= {"lengths": torch.full((batch,), rows, device="cuda", dtype=torch.int32)}
        self._workspace = measured.room(batch, rows, 0, all_logits=False)
        chosen = at_point[..., None]
        self._x = torch.where(chosen, embeds, self._model.embedding[ids.long()])
        self._tables = [torch.where(chosen, tables[f"{k}_3d"], tables[f"{k}_1d"]) for k in ("cos", "sin")]

    def launch(self) -> None:
        self._measured.run(self._given, self._workspace)

    def plain(self) -> tuple[Tensor, Tensor]:
        """The same in PyTorch, in half precision."""
        dtype = self._model.dtype
        return forward(self._model, self._x, *(table.to(dtype) for table in self._tables), dtype)

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor]:
        """In float32, one sequence after another; rows are kept in half the memory."""
        found = [
            forward(self._model, *(t[i : i + 1].float() for t in (self._x, *self._tables)), torch.float32)
            for i in range(len(self._x))
        ]
        return torch.cat([logits for logits, _ in found]), torch.cat([rows for _, rows in found], 1)

    def ours(self) -> Facts:
        """Against float32, and milliseconds: launch by launch, and in a CUDA graph."""
        self.launch()
        torch.cuda.synchronize()
        near = closeness((self._logits, self._rows), self.exact)
        first = self._logits.clone(), self._rows.clone()
        graph = replay_of(self.launch)
        for tensor in (self._logits, self._rows):
            tensor.fill_(torch.nan)
        graph()
        torch.cuda.synchronize()
        same = torch.equal(first[0], self._logits) and torch.equal(first[1], self._rows)
        times = {"launched": spread(self.launch, 1), "graph": spread(graph, 1)}
        rate = {"TFLOP/s": round(self.operations / times["graph"]["ms"] / 1e9, 1)}
        return {**near, "graph_equal": same, **times, **rate, "workspace_mb": round(self._workspace.nbytes / 1e6, 1)}

    def theirs(self) -> Facts:
        """PyTorch in half precision, against float32 and in a CUDA graph; compiled where that was asked for."""
        near = closeness(self.plain(), self.exact)
        facts = {**near, "graph": spread(replay_of(self.plain), 1)}
        if self._measured.args.compile:
            fast = torch.compile(forward, fullgraph=True, dynamic=False)
            dtype = self._model.dtype
            arguments = (self._model, self._x, *(table.to(dtype) for table in self._tables), dtype)
            facts["compiled_graph"] = spread(replay_of(lambda: fast(*arguments)), 1)
        return facts

    @property
    def operations(self) -> float:
        """Of products with weights, of causal attention and of the head for the last rows."""
        s, (batch, rows, _) = self._model.sizes, self._x.shape
        queries = s.heads * s.head_dim
        layer = (s.qkv_rows + queries + 3 * s.intermediate) * s.hidden
        return 2.0 * batch * (rows * s.layers * layer + rows * rows * s.layers * queries + s.vocabulary * s.hidden)


class Decode:
    """One token for each of B sequences over M rows of a cache, whose lengths differ a little."""

    def __init__(self, measured: Measured, batch: int, rows: int) -> None:
        self._measured, self._model, self._past_rows = measured, measured.model, rows
        model, s = measured.model, measured.model.sizes
        self._lengths = [max(rows - 13 * i, 0) for i in range(batch)]
        self._past = torch.stack([model.past(length, seed)[:rows] for seed, length in enumerate(self._lengths)], 1)
        torch.manual_seed(rows)
        ids = torch.randint(s.vocabulary, (batch, 1), device="cuda", dtype=torch.int32)
        lengths = torch.tensor(self._lengths, device="cuda", dtype=torch.int32)
        tables = {f"{k}_1d": getattr(model, k)[self._lengths][:, None].contiguous() for k in ("cos", "sin")}
        self._logits = torch.full((batch, 1, s.vocabulary), torch.nan, device="cuda")
        self._rows = torch.full((1, *self._past.shape[1:]), torch.nan, device="cuda", dtype=model.dtype)
        given = {"batch": batch, "rows": 1, "past_rows": rows, "causal": 1, "all_logits": 1, "ids": ids, **tables}
        outputs = {"logits": self._logits, "new_rows": self._rows}
        self._given: dict[str, Any] = {**given, "past_length": lengths, "past": self._past, **outputs}
        self._workspace = measured.room(batch, 1, rows, all_logits=True)

    def launch(self) -> None:
        self._measured.run(self._given, self._workspace)

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor]:
        """The plain step in float32, sequence by sequence."""
        logits, rows = [], []
        for index, (token, length) in enumerate(zip(self._given["ids"].flatten().tolist(), self._lengths, strict=True)):
            past = torch.nn.functional.pad(self._past[:, index], (0, 0, 0, 0, 0, 1))
            logits.append(self._model.step(token, length, past))
            rows.append(past[length])
        return torch.stack(logits), torch.stack(rows)[None]

    def facts(self) -> Facts:
        """Milliseconds a step; with one sequence also of the kernel for that."""
        found = {"general": self._way(self.launch)}
        if len(self._lengths) == 1 and (room := self._measured.step_room()) is not None:
            found["one_kernel"] = self._way(lambda: self._measured.step(self._step_given(), room))
        return found

    def _step_given(self) -> dict[str, Any]:
        names = {"ids": "token", "cos_1d": "cos", "sin_1d": "sin", "new_rows": "rows"}
        kept = ("ids", "cos_1d", "sin_1d", "past_length", "past", "past_rows", "logits", "new_rows")
        return {names.get(name, name): self._given[name] for name in kept}

    def _way(self, launch: Action) -> Facts:
        launch()
        torch.cuda.synchronize()
        near = closeness((self._logits[:, 0], self._rows), self.exact)
        times = spread(replay_of(launch), REPLAYS)
        s = self._model.sizes
        read = s.weight_bytes + sum(self._lengths) * 2 * s.layers * s.kv_heads * s.head_dim * 2
        percent = 100 * read / times["ms"] / 1e6 / self._measured.bandwidth
        return {**near, **times, "percent_of_plain_read": round(percent, 1)}


def stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)


def addressed(given: dict[str, int | Tensor | None]) -> dict[str, int]:
    """Tensors by their addresses."""
    return {name: value if isinstance(value, int) else address(value) for name, value in given.items()}


def replay_of(action: Callable[[], object]) -> Action:
    """The action as a CUDA graph, after runs on another stream as PyTorch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            action()
    torch.cuda.current_stream().wait_stream(side)
    replay = captured(action)
    assert replay is not None

    def run() -> None:
        replay()

    return run


def spread(action: Action, times: int) -> dict[str, float]:
    """Median and ends of milliseconds, `times` runs at a time."""

    def run() -> None:
        for _ in range(times):
            action()

    found = [each / times for each in milliseconds(run, RUNS)]
    return {"ms": round(statistics.median(found), 5), "best": round(found[0], 5), "worst": round(found[-1], 5)}


def closeness(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> Facts:
    """Least cosine of logits [B, V], and over sequences that of the last row of the cache, all layers together."""
    logits, rows = got
    last = [part[-1].double().flatten(1) for part in (rows, want[1])]
    worst = (logits.double() - want[0].double()).norm() / want[0].double().norm()
    return {
        "logits_cosine": round(float(cosine_similarity(logits.double(), want[0].double()).min()), 8),
        "logits_error": round(float(worst), 6),
        "rows_cosine": round(float(cosine_similarity(*last).min()), 8),
        "first_choice_kept": bool(torch.equal(logits.argmax(-1), want[0].argmax(-1))),
    }


def kernels(action: Callable[[], object], runs: int = 5) -> Facts:
    """By kernel: how often in a run, mean and summed microseconds; and how long the device had nothing to do."""
    action()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(runs):
            action()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return kernel_table([(e.name, e.time_range.start, e.time_range.end) for e in events], runs)


def kernel_table(events: list[tuple[str, float, float]], runs: int) -> Facts:
    """Of name, begin and end in microseconds; what takes longest comes first."""
    times: dict[str, list[float]] = {}
    for name, begin, end in events:
        times.setdefault(name, []).append(end - begin)
    rows = [
        {
            "name": name[:160],
            "count": round(len(found) / runs, 2),
            "mean_us": round(statistics.mean(found), 2),
            "total_us": round(sum(found) / runs, 1),
        }
        for name, found in sorted(times.items(), key=lambda item: -sum(item[1]))
    ]
    if not rows:
        return {"error": "the profiler saw no kernels"}
    wall = (max(end for *_, end in events) - min(begin for _, begin, _ in events)) / runs
    busy = sum(map(sum, times.values())) / runs
    return {"wall_us": round(wall, 1), "kernels_us": round(busy, 1), "gaps_us": round(wall - busy, 1), "kernels": rows}
