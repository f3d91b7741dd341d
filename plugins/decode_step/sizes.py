"""What the decode kernel is compiled for: a model's sizes, and how its work is cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from plugins.source import inlined, with_constants

KERNEL = Path(__file__).with_name("kernel.cuh")
WARP = 32
HEAD_DIM, MAX_GROUP, MAX_LAYERS = 64, 8, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A language model of the Qwen2 or Llama family with half precision weights."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    qkv_bias: bool
    epsilon: float
    bf16: bool

    @property
    def qkv_rows(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def weight_bytes(self) -> int:
        """What one step reads of matrices."""
        queries = self.heads * self.head_dim
        layer = (self.qkv_rows + 2 * self.intermediate) * self.hidden + self.hidden * (queries + self.intermediate)
        return 2 * (self.layers * layer + self.vocabulary * self.hidden)

    @property
    def text(self) -> str:
        """ "hidden=896,...": what `parse` reads, and `python -m plugins.build --sizes` takes."""
        return ",".join(f"{name}={value:g}" for name, value in asdict(self).items())

    @classmethod
    def parse(cls, text: str) -> Sizes:
        """Raises ValueError where a name is missing, unknown or given twice, or a value is no number."""
        pairs = [part.partition("=")[::2] for part in text.split(",")]
        kinds, names = get_type_hints(cls), [field.name for field in fields(cls)]
        if sorted(name for name, _ in pairs) != sorted(names):
            raise ValueError(f"{text!r}: {', '.join(names)} were expected, each once, as name=number")
        return cls(**{name: bool(int(value)) if kinds[name] is bool else kinds[name](value) for name, value in pairs})

    def constants(self) -> dict[str, int | float]:
        return {
            "HIDDEN": self.hidden,
            "INTERMEDIATE": self.intermediate,
            "LAYERS": self.layers,
            "HEADS": self.heads,
            "KV_HEADS": self.kv_heads,
            "HEAD_DIM": self.head_dim,
            "VOCABULARY": self.vocabulary,
            "QKV_BIAS": int(self.qkv_bias),
            "EPSILON": float(self.epsilon),
            "HALF_IS_BF16": int(self.bf16),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the work is cut. split_*: warps that share a row, each some groups of 64 columns."""

    warps: int = 14  # that multiply
    slots: int = 22  # of the ring of weights in shared memory
    slot_bytes: int = 8192
    flight: int = 4  # slots on their way at a time
    split_hidden: int = 7  # products over the hidden state: QKV, gate and up, head
    split_queries: int = 14  # behind attention
    split_inner: int = 14  # down
    pairs: int = 1  # of tiles of eight rows, that a warp takes at a time of large matrices
    profile: int = 0

    @property
    def threads(self) -> int:
        """Of a block: one warp attends, one asks for weights."""
        return WARP * (self.warps + 2)

    def constants(self) -> dict[str, int | float]:
        names = {name.upper(): value for name, value in asdict(self).items()}
        return {**names, "MAX_SPLIT": max(self.split_hidden, self.split_queries, self.split_inner)}


def misfit(sizes: Sizes, tuning: Tuning) -> str | None:
    """Why the kernel cannot be compiled for a model, or None: the assertions of its files, in words."""
    multiplying, queries = WARP * tuning.warps, sizes.heads * sizes.head_dim
    wide = 4 if sizes.hidden <= 4 * multiplying else 8  # channels of the hidden state that a thread has
    checks = {
        f"heads have {sizes.head_dim} channels, but 64 were expected": sizes.head_dim == HEAD_DIM,
        f"{sizes.heads} query heads share {sizes.kv_heads} key heads, but at most {MAX_GROUP} may share one": (
            sizes.heads % sizes.kv_heads == 0 and sizes.heads <= MAX_GROUP * sizes.kv_heads
        ),
        f"the hidden state has {sizes.hidden} channels, but a multiple of {WARP * wide} up to {8 * multiplying} was "
        "expected": sizes.hidden % (WARP * wide) == 0 and sizes.hidden <= 8 * multiplying,
        f"the inner size is {sizes.intermediate}, but a multiple of 64 from {queries} on was expected": (
            sizes.intermediate % 64 == 0 and sizes.intermediate >= queries
        ),
        f"there are {sizes.layers} layers, but at most {MAX_LAYERS} were expected": sizes.layers <= MAX_LAYERS,
    }
    return next((reason for reason, holds in checks.items() if not holds), None)


def source(sizes: Sizes, tuning: Tuning, *, pure: bool = False, file: Path = KERNEL) -> str:
    """The whole kernel as text, which needs no other file and no header of ours. `pure`: as a function of one step."""
    constants = {**sizes.constants(), **tuning.constants(), "PURE": int(pure)}
    return with_constants(inlined(file), constants)
