"""What `decode_step` measures in one process: a variant of the kernel, or the card alone."""

from __future__ import annotations

import ctypes
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import Module
from plugins.decode_step.arguments import LAYER_FIELDS, StepArguments, buffer_bytes
from plugins.decode_step.sizes import SLICE_ROWS, Sizes, Tuning

Facts = Any
Part = tuple[str, Callable[[], Facts]]
CAPACITY = 2048  # rows of the cache, at least
MOST_STEPS = 32  # in a run
MARKS = 32
PROBE_CHUNK = 16384  # bytes that the probes ask for at a time
PHASES = {
    "qkv": ("wait", "load", "product", "end"),
    "attention": ("wait", "", ""),  # all of it is what the next phase waits for
    "o": ("load", "product", "end"),
    "gate_up": ("wait", "load", "product", "end"),
    "down": ("wait", "load", "product", "end"),
}


def blocks() -> int:
    return torch.cuda.get_device_properties(0).multi_processor_count


def milliseconds(action: Callable[[], None], runs: int, warm_up: int = 3) -> list[float]:
    """Sorted device times of single runs."""
    times = []
    for i in range(runs + warm_up):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        end.synchronize()
        if i >= warm_up:
            times.append(begin.elapsed_time(end))
    return sorted(times)


def plain_read(size: int) -> Facts:
    """So many bytes read by PyTorch in one piece."""
    whole = torch.empty(size // 4, dtype=torch.int32, device="cuda").fill_(1)
    median = statistics.median(milliseconds(lambda: whole.max(), 10))
    return {"ms": round(median, 5), "GB/s": round(whole.nbytes / median / 1e6)}


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class Model:
    """Random weights on a device, and the plain step in float32 (keys and values in the cache's type)."""

    def __init__(self, sizes: Sizes, capacity: int, seed: int = 0, device: str = "cuda") -> None:
        torch.manual_seed(seed)
        self.device = device
        self.sizes, self.capacity, self.dtype = sizes, capacity, torch.bfloat16 if sizes.bf16 else torch.float16
        c, queries = sizes.hidden, sizes.heads * sizes.head_dim
        self.embedding = self._random(sizes.vocabulary, c, scale=0.03)
        self.final_norm = self._random(c, scale=0.2, shift=1)
        self.layers = [
            {
                "input_norm": self._random(c, scale=0.2, shift=1),
                "qkv": self._random(sizes.qkv_rows, c, scale=c**-0.5),
                "qkv_bias": self._random(sizes.qkv_rows, scale=0.3) if sizes.qkv_bias else None,
                "o": self._random(c, queries, scale=queries**-0.5),
                "post_norm": self._random(c, scale=0.2, shift=1),
                "gate_up": self._random(2 * sizes.intermediate, c, scale=c**-0.5),
                "down": self._random(c, sizes.intermediate, scale=sizes.intermediate**-0.5),
            }
            for _ in range(sizes.layers)
        ]
        angles = torch.arange(capacity)[:, None] * 1e4 ** (-torch.arange(sizes.head_dim // 2) / (sizes.head_dim // 2))
        angles = torch.cat([angles, angles * 0.7], 1).to(device)  # the halves differ, as those of a point token may
        self.cos, self.sin = angles.cos().float().contiguous(), angles.sin().float().contiguous()

    def _random(self, *shape: int, scale: float, shift: float = 0) -> Tensor:
        return torch.randn(*shape, device=self.device).mul_(scale).add_(shift).to(self.dtype)

    def past(self, length: int, seed: int = 1) -> Tensor:
        """A cache with `length` random rows; what lies behind them is NaN."""
        torch.manual_seed(seed)
        s = self.sizes
        past = torch.randn(self.capacity, 2 * s.layers * s.kv_heads, s.head_dim, device=self.device).to(self.dtype)
        past[length:] = math.nan
        return past

    def step(self, token: int, position: int, past: Tensor, work: torch.dtype = torch.float32) -> Tensor:
        """Logits [V] in float32; `past` gets its row. `work` is the type of the products."""
        s = self.sizes
        x = self.embedding[token].float()
        for index, w in enumerate(self.layers):
            qkv = self._product(w["qkv"], self._norm(x, w["input_norm"]), work)
            qkv = qkv if w["qkv_bias"] is None else qkv + w["qkv_bias"].float()
            heads = qkv.view(-1, s.head_dim)
            turned = self._rotate(heads[: s.heads + s.kv_heads], position)
            key = slice(index * s.kv_heads, (index + 1) * s.kv_heads)
            value = slice((s.layers + index) * s.kv_heads, (s.layers + index + 1) * s.kv_heads)
            past[position, key] = turned[s.heads :].to(self.dtype)
            past[position, value] = heads[s.heads + s.kv_heads :].to(self.dtype)
            keys, values = (past[: position + 1, part].float().transpose(0, 1) for part in (key, value))
            query = turned[: s.heads].view(s.kv_heads, -1, s.head_dim) / s.head_dim**0.5
            mixed = (query @ keys.transpose(1, 2)).softmax(-1) @ values
            x = x + self._product(w["o"], mixed.reshape(-1), work)
            gate, up = self._product(w["gate_up"], self._norm(x, w["post_norm"]), work).chunk(2)
            x = x + self._product(w["down"], torch.nn.functional.silu(gate) * up, work)
        return self._product(self.embedding, self._norm(x, self.final_norm), work)

    def _norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean() + self.sizes.epsilon) * gain.float()

    def _product(self, weight: Tensor, x: Tensor, work: torch.dtype) -> Tensor:
        return (weight.to(work) @ x.to(work)).float()

    def _rotate(self, x: Tensor, position: int) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * self.cos[position] + torch.cat([-high, low], -1) * self.sin[position]


class Runner:
    """The kernel over a model, with its buffers."""

    def __init__(self, model: Model, tuning: Tuning, cubin: bytes) -> None:
        s, self.model = model.sizes, model
        module = Module(cubin)
        shared = module.integer("memory_bytes")
        self._kernel = module.kernel("decode_step", tuning.threads, shared, cooperative=True)
        pointers = [[address(layer[name]) for name in LAYER_FIELDS] for layer in model.layers]
        self._layers = torch.tensor(pointers, dtype=torch.int64, device="cuda")
        self.token, self.length = (torch.zeros(1, dtype=torch.int32, device="cuda") for _ in range(2))
        self.tokens = torch.zeros(64, dtype=torch.int32, device="cuda")
        self.logits = torch.full((8, s.vocabulary), math.nan, device="cuda")
        self.marks = torch.zeros(blocks(), s.layers + 1, MARKS, dtype=torch.int64, device="cuda")
        self._buffers = {
            name: torch.zeros(size, dtype=torch.uint8, device="cuda")
            for name, size in buffer_bytes(s, blocks()).items()
        }
        self._turns = torch.zeros(2, dtype=torch.int32, device="cuda")

    def __call__(self, past: Tensor, steps: int, *, logits: bool = False, marks: bool = False) -> None:
        m = self.model
        tensors: dict[str, Tensor | None] = {
            "layers": self._layers,
            "embedding": m.embedding,
            "final_norm": m.final_norm,
            "head": m.embedding,
            "past": past,
            "cos_table": m.cos,
            "sin_table": m.sin,
            **self._buffers,
            "turns": self._turns,
            "token": self.token,
            "past_length": self.length,
            "tokens": self.tokens,
            "logits": self.logits if logits else None,
        }
        arguments = StepArguments(
            **{name: address(tensor) for name, tensor in tensors.items()},
            steps=steps,
            marks=address(self.marks if marks else None),
        )
        self._kernel(blocks(), torch.cuda.current_stream().cuda_stream, arguments)

    def start(self, token: int, length: int) -> None:
        self.token.fill_(token)
        self.length.fill_(length)


class Variant:
    def __init__(self, sizes: Sizes, tuning: Tuning, cubin: bytes, context: int, whole: bool) -> None:
        self.model = Model(sizes, max(CAPACITY, context + MOST_STEPS))  # the kernel trusts its caller to have room
        self.runner = Runner(self.model, tuning, cubin)
        self._context, self._tuning, self._whole = context, tuning, whole

    def parts(self) -> Iterator[Part]:
        yield "first", lambda: self.against(self._context, 1)
        if self._tuning.profile:
            yield "cycles", self.cycles
            return
        yield "loop", lambda: self.speed(MOST_STEPS)
        yield "launches", lambda: self.speed(1)
        if not self._whole:
            return
        yield "read", self.read
        for length, steps in ((0, 4), (63, 3), (self.model.capacity - 1, 1), (self._context, 4)):
            yield f"at_{length}", lambda length=length, steps=steps: self.against(length, steps)
        yield "repeat", self.repeat

    def against(self, length: int, steps: int) -> Facts:
        """Logits and tokens against the plain step in float32, over cache rows that are NaN behind the prefix."""
        past, wanted_past = self.model.past(length), self.model.past(length)
        self.runner.start(17, length)
        self.runner(past, steps, logits=True)
        torch.cuda.synchronize()
        token, errors, same = 17, [], []
        for i in range(steps):
            got = self.runner.logits[i].double()
            wanted = self.model.step(token, length + i, wanted_past).double()
            errors.append(float((got - wanted).norm() / wanted.norm()))
            token = int(self.runner.tokens[i])
            same.append((token == int(got.argmax()), token == int(wanted.argmax())))
        rows = slice(length, length + steps)
        cache = float((past[rows].double() - wanted_past[rows].double()).norm() / wanted_past[rows].double().norm())
        state = int(self.runner.length) == length + steps and int(self.runner.token) == token
        untouched = bool(torch.equal(past[:length], wanted_past[:length]) and past[length + steps :].isnan().all())
        half = self.model.step(17, length, self.model.past(length), self.model.dtype).double()
        exact = self.model.step(17, length, self.model.past(length)).double()
        plain = float((half - exact).norm() / exact.norm())
        right = {"argmax": all(own for own, _ in same), "tokens": all(kept for _, kept in same)}
        return {"error": max(errors), **right, "cache": cache, "state": state, "untouched": untouched, "plain": plain}

    def speed(self, steps: int) -> Facts:
        """Milliseconds a token, `steps` in a launch."""
        past = self.model.past(self._context)

        def run() -> None:
            self.runner.length.fill_(self._context)
            for _ in range(MOST_STEPS // steps):
                self.runner(past, steps)

        times = [time / MOST_STEPS for time in milliseconds(run, 20)]
        median = statistics.median(times)
        gigabytes = self.model.sizes.weight_bytes / median / 1e6
        return {
            "ms": round(median, 5),
            "best": round(times[0], 5),
            "worst": round(times[-1], 5),
            "GB/s": round(gigabytes),
        }

    def read(self) -> Facts:
        """The same weights summed up by PyTorch, tensor after tensor: what a plain read costs on this card."""
        return plain_read(self.model.sizes.weight_bytes)

    def repeat(self) -> Facts:
        """Two runs from one state: equal to the bit?"""
        found = []
        for _ in range(2):
            past = self.model.past(self._context)
            self.runner.start(5, self._context)
            self.runner(past, 8, logits=True)
            torch.cuda.synchronize()
            found.append(
                (self.runner.logits.clone(), self.runner.tokens[:8].clone(), past[: self._context + 8].clone())
            )
        return {"equal": all(torch.equal(a, b) for a, b in zip(*found, strict=True)), "tokens": found[0][1].tolist()}

    def cycles(self) -> Facts:
        """Mean cycles of each part of each phase over layers and blocks, from the last of 8 steps."""
        past = self.model.past(self._context)
        for _ in range(3):
            self.runner.start(17, self._context)
            self.runner(past, 8, marks=True)
        torch.cuda.synchronize()
        marks = self.runner.marks.cpu().double()
        body, head = marks[:, :-1], marks[:, -1]
        facts: dict[str, Any] = {"step": round(float((head[:, 4] - body[:, 0, 0]).mean()))}
        before, at = body[:, :-1, 17], 0
        for phase, names in PHASES.items():
            facts[phase] = {}
            for name in names:
                now = body[:, 1:, at]
                if not name:
                    at += 1
                    continue
                facts[phase][name] = self._spread(now - before)
                before, at = now, at + 1
        for index, phase in enumerate(("qkv", "o", "gate_up", "down")):
            facts[phase]["stalled"] = self._spread(body[:, 1:, 24 + index])
        tile = SLICE_ROWS * min(self._tuning.warps, 8)  # rows of a piece
        pieces = min(self._tuning.pieces, (self._context + 7 + tile) // tile) * self.model.sizes.kv_heads
        units = body[:pieces, 1:, 29:32]
        facts["units"] = {"wait": self._spread(units[..., 1] - units[..., 0])}
        facts["units"]["work"] = self._spread(units[..., 2] - units[..., 1])
        names = ("load", "product", "end", "agree")
        starts = [body[:, -1, 17], *(head[:, i] for i in range(5))]
        parts = zip(("wait", *names), starts[:-1], starts[1:], strict=True)
        facts["head"] = {name: round(float((after - prior).mean())) for name, prior, after in parts}
        facts["head"]["stalled"] = round(float(head[:, 24].mean()))
        return facts

    @staticmethod
    def _spread(values: Tensor) -> list[int]:
        """Mean, and the mean over layers of the block that is fastest and slowest in a layer."""
        return [round(float(x)) for x in (values.mean(), values.min(0).values.mean(), values.max(0).values.mean())]


class Probes:
    """Ceilings: plain reads, reads through the ring, barriers of the grid."""

    def __init__(self, cubin: bytes) -> None:
        self._module = Module(cubin) if torch.zeros(1, device="cuda").is_cuda else None
        self._stream = torch.cuda.current_stream().cuda_stream
        self._counter = torch.zeros(4096, dtype=torch.int32, device="cuda")
        self._data = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").fill_(3)

    def parts(self) -> Iterator[Part]:
        yield "card", lambda: [torch.cuda.get_device_name(), blocks(), torch.version.cuda]
        yield "read_plain", self.plain
        yield "read_ring", self.ring
        for name in ("barriers", "exchanges", "flagged", "block_flags"):
            yield name, lambda name=name: self.rounds(name)
        yield "loaded", self.loaded

    def plain(self) -> Facts:
        kernel = self._module.kernel("read_plain", 512)
        count = ctypes.c_longlong(self._data.nbytes // 16)

        def run(grid: int) -> None:
            pointers = (ctypes.c_void_p(address(t)) for t in (self._data, self._counter))
            data, sink = pointers
            kernel(grid, self._stream, data, count, sink)

        return {str(n): self._rate(lambda n=n: run(blocks() * n)) for n in (1, 2, 4, 8)}

    def ring(self) -> Facts:
        kernel = self._module.kernel("read_ring", 544, self._module.integer("memory_bytes"), cooperative=True)
        data, size = ctypes.c_void_p(address(self._data)), ctypes.c_longlong(self._data.nbytes)

        def run(kilobytes: int) -> None:
            kernel(blocks(), self._stream, data, size, ctypes.c_uint(PROBE_CHUNK), ctypes.c_uint(kilobytes << 10))

        return {str(flight): self._rate(lambda flight=flight: run(flight)) for flight in (16, 32, 48, 64, 96)}

    def loaded(self) -> Facts:
        """Nanoseconds a round of 896 flagged values, and GB/s meanwhile, by kilobytes on their way."""
        kernel = self._module.kernel("loaded", 544, self._module.integer("memory_bytes"), cooperative=True)
        values, read = (torch.zeros(4096, dtype=torch.int32, device="cuda") for _ in range(2))
        facts = {}
        for flight in (16, 32, 48, 64):
            rest = [ctypes.c_int(896), ctypes.c_int(1000), ctypes.c_void_p(address(self._data))]
            rest += [ctypes.c_longlong(self._data.nbytes), ctypes.c_uint(PROBE_CHUNK), ctypes.c_uint(flight << 10)]
            rest += [ctypes.c_void_p(address(read))]
            times = []
            for _ in range(3):
                values.zero_()
                action = partial(kernel, blocks(), self._stream, ctypes.c_void_p(address(values)), *rest)
                times += milliseconds(action, 1, 0)
            rate = int(read[: blocks()].sum()) * PROBE_CHUNK / times[-1] / 1e6
            facts[str(flight)] = [round(times[-1] * 1e3), round(rate)]
        return facts

    def _rate(self, action: Callable[[], None]) -> int:
        return round(self._data.nbytes / statistics.median(milliseconds(action, 10)) / 1e6)

    def rounds(self, name: str) -> Facts:
        """Nanoseconds a round, by how many values go round."""
        kernel = self._module.kernel(name, 512, cooperative=True)
        values = torch.zeros(1 << 16, dtype=torch.int32, device="cuda")
        counter, buffer = (ctypes.c_void_p(address(t)) for t in (self._counter, values))
        facts, count = {}, 1000

        for size in (0,) if name == "barriers" else (896, 2048, 4096):
            rest = [ctypes.c_int(size), ctypes.c_int(count)]
            given = {
                "barriers": [counter, ctypes.c_int(count)],
                "exchanges": [counter, buffer, *rest],
                "flagged": [buffer, *rest],
                "block_flags": [counter, buffer, *rest],
            }[name]
            times = []
            for _ in range(4):
                self._counter.zero_()
                values.zero_()
                times += milliseconds(lambda given=given: kernel(blocks(), self._stream, *given), 1, 0)
            facts[str(size)] = round(min(times) / count * 1e6)
        return facts
