"""Engines against float32 PyTorch: prefill, cache rows, forced steps, its own text, free running, encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.gpu.case import upload
from benchmarks.gpu.compare import closeness, layer_rows, layers_closeness, tokens_in_step, tokens_running_free
from benchmarks.gpu.loaded import Loaded
from benchmarks.gpu.report import Facts
from runtime.arrays import Array
from runtime.decode import Sampling, TokenChooser


@dataclass(frozen=True, slots=True)
class Limits:
    """What is promised for a precision; the reference is float32, weights and all."""

    cosine: float  # of logits, cache rows and point tokens
    all_tokens: bool  # every greedy token, or only those that are no coin toss


LIMITS = {"fp32": Limits(0.9999999, True), "fp16": Limits(0.9999, False), "bf16": Limits(0.995, False)}


class Parity:
    """Each method is one part of the result. The largest logit error seen so far says what a coin toss is."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded, self._case = loaded, loaded.case
        self._spec = loaded.bundle.manifest.language_model
        self._limits = LIMITS[loaded.bundle.manifest.precision]
        self._feeds = loaded.prompt()
        self.error = 0.0

    def parts(self) -> dict[str, Callable[[], Facts]]:
        """By name, in the order in which they must run."""
        return {
            "prefill": self.prefill,
            "forced": self.forced,
            "followed": self.followed,
            "free": self.free,
            "encoder": self.encoder,
        }

    def prefill(self) -> Facts:
        """Logits of the last position, and the cache rows of every layer."""
        loaded = self._loaded
        results = loaded.engines.prefill.run(self._feeds)
        arrays = {name: np.array(loaded.backend.download(tensor)) for name, tensor in results.items()}
        logits = closeness(arrays["logits"], self._case.arrays["wanted.logits"])
        got = layer_rows(arrays, self._spec.layers, self._spec.kv_heads)
        layers = layers_closeness(got, self._case.arrays["wanted.rows"])
        self.error = max(self.error, logits["max_abs"])
        lowest = min(*layers["key_cosine"], *layers["value_cosine"])
        passed = logits["cosine_min"] >= self._limits.cosine and lowest >= self._limits.cosine
        return {"logits": logits, "rows_cosine_min": lowest, "layers": layers, "passed": passed}

    def forced(self) -> Facts:
        """Logits after each of the forced tokens, which no model would choose."""
        tokens, want = self._case.arrays["forced.tokens"], self._case.arrays["forced.logits"]
        got = self._logits_along(tokens)
        facts = closeness(got, want)
        self.error = max(self.error, facts["max_abs"])
        kept = int((got.argmax(-1) == want.argmax(-1)).sum())
        return {"steps": len(tokens), **facts, "kept": kept, "passed": facts["cosine_min"] >= self._limits.cosine}

    def followed(self) -> Facts:
        """Along the reference's own text: the choice at every place of it."""
        want, margins = self._case.arrays["free.tokens"], self._case.arrays["free.margins"]
        first, cache = self._loaded.start(self._feeds)
        chosen = [int(first[0].argmax())]
        chosen += [int(self._loaded.step(int(token), cache).argmax()) for token in want[:-1]]
        facts = tokens_in_step(np.array(chosen), want, margins, self.error)
        return {**facts, "passed": facts["passed"] and (facts["equal"] == len(want) or not self._limits.all_tokens)}

    def free(self) -> Facts:
        """From its own tokens: the way the pipeline generates, and step by step through the host."""
        want, margins = self._case.arrays["free.tokens"], self._case.arrays["free.margins"]
        generated, plain = self.generate(len(want)), self._plain(len(want))
        facts = tokens_running_free(generated, want, margins, self.error)
        same = bool(np.array_equal(generated, plain))
        equal = facts["equal_until"] == len(want) or not self._limits.all_tokens
        return {**facts, "same_as_plain_loop": same, "passed": facts["passed"] and same and equal}

    def encoder(self) -> Facts:
        """Point tokens of the scene."""
        loaded = self._loaded
        feeds = upload(loaded.backend, loaded.engines.encoder, self._case.inputs("encoder"))
        got = loaded.backend.download(loaded.engines.encoder.run(feeds)["point_tokens"])
        facts = closeness(got, self._case.arrays["wanted.point_tokens"])
        voxels = len(self._case.arrays["encoder.features"])
        return {"voxels": voxels, "points": len(got), **facts, "passed": facts["cosine_min"] >= self._limits.cosine}

    def generate(self, count: int) -> Array:
        """Greedy tokens as the pipeline makes them, with no token that stops."""
        logits, cache = self._loaded.start(self._feeds)
        choose = TokenChooser(Sampling(), [np.zeros(0, np.int32)])
        return np.array([step[0] for step in self._loaded.decoder.generate(logits, cache, choose, (), count)])

    def _plain(self, count: int) -> Array:
        logits, cache = self._loaded.start(self._feeds)
        tokens = [int(logits[0].argmax())]
        while len(tokens) < count:
            tokens.append(int(self._loaded.step(tokens[-1], cache).argmax()))
        return np.array(tokens)

    def _logits_along(self, tokens: Sequence[int] | Array) -> Array:
        """Logits [N, V] after each of N tokens."""
        _, cache = self._loaded.start(self._feeds)
        return np.stack([self._loaded.step(int(token), cache).copy() for token in tokens])
