"""PyTorch on the same card: transformers eager, and the fastest we know to write: fused, static, compiled, captured.

python -m benchmarks.gpu.torch_baseline --model CHECKPOINT --output torch.json [--precision fp16] [--reference ref.npz]

Milliseconds of a captured step come from CUDA events. Each way to compile has a time limit. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.case import Case, prefill_inputs, scene_feeds
from benchmarks.gpu.compare import closeness
from benchmarks.gpu.compiled import WAYS, captured, compiled, equal_until, first_call, replays
from benchmarks.gpu.eager import DTYPES, Eager, EagerEncoder, synchronizer
from benchmarks.gpu.report import Facts, Report, model_facts, spread, timed
from benchmarks.gpu.static_model import StaticModel, TokenLoop
from export.checkpoint import open_checkpoint
from export.rope import position_spec
from runtime.arrays import Array
from runtime.rope import rope_table

CANDIDATES = ("groups/reductions", "heads/reductions", "groups/max-autotune")
FORCED = 64  # steps of the reference
CHECKED = 8  # steps compared with transformers


class Baseline:
    """Each method named in `parts` is one part of the result."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._device = args, torch.device(args.device)
        self.checkpoint = open_checkpoint(args.model, vlm_pe=None)
        self.spec, position = self.checkpoint.config.language_model, position_spec(self.checkpoint.config, "causal")
        self._synchronize, self._began = synchronizer(self._device), time.perf_counter()
        self._inputs = prefill_inputs(self.spec, position, args.prompt, args.points, args.precision)
        self._forced = np.random.default_rng(1).integers(0, self.spec.vocab_size, CHECKED)
        rows = -(-(args.prompt + max(args.tokens, FORCED) + 8) // 64) * 64
        dtype = DTYPES[args.precision]
        halves = rope_table(np.arange(rows), None, position.text)
        table = [torch.from_numpy(half).to(self._device, dtype) for half in halves]
        self.model = StaticModel(
            self.spec, lambda name: self.checkpoint.float_tensor(name).to(self._device, dtype), (table[0], table[1])
        )

    def parts(self) -> dict[str, Callable[[], Facts]]:
        """By name, in order."""
        ways = {f"decode_{name}": lambda name=name: self.decode(name) for name in self._args.candidates}
        fixed = {"eager": self.eager, "encoder": self.encoder, "static_parity": self.static_parity}
        prefills = {f"prefill_{way}": lambda way=way: self.prefill(way) for way in self._args.prefills}
        given = {"reference_parity": self.reference_parity} if self._args.reference else {}
        return {**fixed, **given, **prefills, **ways, "memory": self.memory}

    def eager(self) -> Facts:
        """transformers: prefill, and tokens that each come to the host. Its logits are kept for `static_parity`."""
        eager = Eager(self.checkpoint, self._args.precision, self._device)
        at_point = self._inputs["point_mask"][0]
        points = torch.from_numpy(self._inputs["point_embeds"][0][at_point]).to(self._device)
        embeds = eager.embed(self._inputs["input_ids"][0], at_point, points)
        rows = [eager.start(embeds), *(eager.step(int(token)) for token in self._forced)]
        self._wanted = torch.cat(rows).float().cpu().numpy()
        prefill = timed(lambda: eager.start(embeds), self._synchronize, 10)
        token, steps = int(eager.start(embeds).argmax()), []
        for _ in range(self._args.eager_tokens):
            began = time.perf_counter()
            token = int(eager.step(token).argmax())
            steps.append((time.perf_counter() - began) * 1e3)
        return {"attention": "sdpa", "cache": "dynamic", "prefill": prefill, "per_token": spread(steps[2:])}

    def encoder(self) -> Facts:
        """Our float32 module on the scene."""
        feeds = scene_feeds(self._args.point_cloud, self.checkpoint.config.encoder)
        encoder = EagerEncoder(self.checkpoint, self._device)
        placed = encoder.place(feeds)
        alone = timed(lambda: encoder(placed), self._synchronize, 10)
        upload = timed(lambda: encoder.place(feeds), self._synchronize, 10)
        return {"voxels": len(feeds["features"]), "precision": "fp32", "engine": alone, "upload": upload}

    def memory(self) -> Facts:
        """The most that tensors took at a time, all parts together."""
        peak = torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None
        return {"peak_bytes": peak}

    def static_parity(self) -> Facts:
        """Our static model against transformers in the same precision: the baseline computes the right thing."""
        got = self._along(self.start(self._inputs), self._forced)
        kept = int((got.argmax(-1) == self._wanted.argmax(-1)).sum())
        return {"steps": len(got), "kept": kept, **closeness(got, self._wanted)}

    def reference_parity(self) -> Facts:
        """The same inputs as the engines get: how far PyTorch itself is from float32 in this precision."""
        case = Case.read(self._args.reference)
        tokens = case.arrays["forced.tokens"]
        got = self._along(self.start(case.inputs("prefill")), tokens)
        facts = {"prefill": closeness(got[:1], case.arrays["wanted.logits"])}
        return {**facts, "forced": closeness(got[1:], case.arrays["forced.logits"])}

    def prefill(self, way: str) -> Facts:
        """Compiled with a fixed number of positions: as it is, and captured in a CUDA graph."""
        inputs = self._placed(self._inputs)
        fast = compiled(self.model.prefill, way)
        seconds = first_call(lambda: fast(*inputs), self._synchronize, self._args.time_limit)
        cosine = closeness(fast(*inputs).cpu().numpy(), self.model.prefill(*inputs).cpu().numpy())["cosine_min"]
        plain = timed(lambda: fast(*inputs), self._synchronize, 20)
        facts = {"compile_seconds": seconds, "cosine": cosine, "plain": plain}
        replay = captured(lambda: fast(*inputs))
        return facts if replay is None else {**facts, "captured": timed(replay, self._synchronize, 20)}

    def decode(self, name: str) -> Facts:
        """One way to read the cache and to compile: milliseconds per token of the captured loop."""
        if time.perf_counter() - self._began > self._args.budget:
            return {"skipped": f"after {self._args.budget} s"}
        count, prompt = self._args.tokens, self._args.prompt
        self.model.attention, way = name.split("/")
        fast = compiled(self.model.step, way)
        first = int(self.start(self._inputs).argmax())
        plain, loop = (TokenLoop(step, self._device, count) for step in (self.model.step, fast))
        loop.reset(first, prompt)
        seconds = first_call(loop.once, self._synchronize, self._args.time_limit)
        loop.reset(first, prompt)
        loop.capture()
        times = replays(loop, first, prompt, count, self._synchronize)
        plain.reset(first, prompt)
        for _ in range(count):
            plain.once()
        return {
            "compile_seconds": seconds,
            **times,
            "tokens_of_uncompiled_kept": equal_until(loop.tokens, plain.tokens),
            "of": count,
        }

    def start(self, inputs: dict[str, Array]) -> Tensor:
        """Fill the cache, uncompiled: logits [1, V]."""
        return self.model.prefill(*self._placed(inputs))

    def _placed(self, inputs: dict[str, Array]) -> list[Tensor]:
        """Prefill's arguments, with one table as the graph would choose it."""
        at_point, dtype = inputs["point_mask"][0], self.model.embed.dtype
        tables = [np.where(at_point[:, None], inputs[f"{k}_3d"][0], inputs[f"{k}_1d"][0]) for k in ("cos", "sin")]
        floats = [torch.from_numpy(a).to(self._device, dtype) for a in (inputs["point_embeds"][0], *tables)]
        ids = torch.from_numpy(inputs["input_ids"][0].astype(np.int64)).to(self._device)
        return [ids, floats[0], torch.from_numpy(at_point).to(self._device), floats[1], floats[2]]

    def _along(self, first: Tensor, tokens: Array) -> Array:
        """Logits [1 + N, V]: those given, and after each token."""
        rows = [first]
        for place, token in enumerate(tokens):
            arguments = ([int(token)], [self._args.prompt + place])
            rows.append(self.model.step(*(torch.tensor(value, device=self._device) for value in arguments)))
        return torch.cat(rows).float().cpu().numpy()


def best(facts: Facts) -> Facts:
    """The fastest of all that was measured, by name."""
    decodes = {n: f["per_token"]["ms"] for n, f in facts.items() if n.startswith("decode_") and "per_token" in f}
    prefills = {n: f for n, f in facts.items() if n.startswith("prefill_") and "error" not in f}
    times = {f"{n} {k}": f[k]["ms"] for n, f in prefills.items() for k in ("plain", "captured") if k in f}
    chosen = {}
    for kind, found in (("decode", decodes), ("prefill", times)):
        if found:
            name = min(found, key=lambda key: found[key])
            chosen[kind] = {"name": name, "ms": found[name]}
    return chosen


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--precision", choices=list(DTYPES), default="fp16")
    p.add_argument("--reference", type=Path, help="of benchmarks.gpu.reference: how far PyTorch itself is from float32")
    p.add_argument("--prompt", type=int, default=776)
    p.add_argument("--points", type=int, default=556)
    p.add_argument("--tokens", type=int, default=256)
    p.add_argument("--eager_tokens", type=int, default=32)
    p.add_argument("--candidates", nargs="*", default=list(CANDIDATES), metavar="ATTENTION/WAY")
    p.add_argument("--prefills", nargs="*", default=["default"], choices=list(WAYS))
    p.add_argument("--time_limit", type=int, default=150, help="seconds for compiling in each way (default: 150)")
    p.add_argument("--budget", type=int, default=300, help="seconds after which no more ways are tried (default: 300)")
    p.add_argument("--point_cloud", type=Path, default=Path("demo/room.ply"))
    p.add_argument("--device", default="cuda")
    args = p.parse_args()
    with torch.no_grad():
        baseline = Baseline(args)
        facts = {**model_facts(baseline.spec, args.precision), "prompt": args.prompt, "tokens": args.tokens}
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
        report = Report(args.output, "torch_baseline", {**facts, **versions})
        for name, part in baseline.parts().items():
            report.part(name, part)
            report.facts["best"] = best(report.facts)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
