"""What the decode kernel is compiled for: a model's sizes, and how its work is cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import get_type_hints

from plugins.source import inlined, with_constants

KERNEL = Path(__file__).with_name("kernel.cuh")
WARP, GROUP = 32, 64  # threads; columns that a warp multiplies at a time
HEAD_DIM, MAX_GROUP, MAX_LAYERS, MAX_HIDDEN = 64, 8, 64, 4096
FEW, MANY, SLICE_ROWS = 32, 128, 16  # of arguments.cuh and attention.cuh
SHARED_BYTES = 227 * 1024  # that a block can have


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
    """How the work is cut. 0: as the sizes of the model ask for."""

    warps: int = 15  # that multiply; with the one that asks for weights a multiple of 4, as registers are dealt
    ring: int = 0  # bytes of weights in shared memory; 0: all that is left
    chunk: int = 32768  # bytes of weights that the warps of a block take at a time, at most
    flight: int = 65536  # bytes on their way at a time, at most
    flight_waiting: int = 32768  # the same while the block waits for others
    split_hidden: int = 0  # warps that share a row in products over the hidden state: QKV, gate and up, head
    split_queries: int = 0  # behind attention
    split_inner: int = 0  # down
    tiles: int = 2  # of eight rows, 1 or 2, in a chunk of large matrices
    pieces: int = 8  # of the prefix in attention, at most
    copies: int = 1  # of what all blocks look for, 1 to 4
    peek: int = 0  # 1: who waits for attention looks at the weights of its pieces alone, and then for what is there
    gather: int = 0  # 1: warps that attend fetch queries together, through shared memory, instead of all of them each
    backoff: int = 0  # nanoseconds between two looks at what other blocks write
    profile: int = 0
    checked: int = 0  # 1: for compute-sanitizer's racecheck, without what it cannot follow (plugins/README.md)

    @property
    def threads(self) -> int:
        """Of a block: one warp asks for weights."""
        return WARP * (self.warps + 1)

    def fitted(self, sizes: Sizes) -> Tuning:
        """With all that was left open: as few warps a row as need no more time than all would."""
        queries = sizes.heads * sizes.head_dim
        found = replace(
            self,
            split_hidden=self.split_hidden or _even(sizes.hidden // GROUP, self.warps),
            split_queries=self.split_queries or _even(queries // GROUP, self.warps),
            split_inner=self.split_inner or _even(sizes.intermediate // GROUP, self.warps),
        )
        return found if self.ring else replace(found, ring=found._room(sizes))

    def _room(self, sizes: Sizes) -> int:
        """Bytes that the rest of a block's memory leaves (`Memory` in arguments.cuh)."""
        attending = min(self.warps, 8)
        group = sizes.heads // sizes.kv_heads
        slices = attending * 2 * SLICE_ROWS * HEAD_DIM * 2 + 2 * HEAD_DIM * 4
        slices += self.gather * (group * (HEAD_DIM // 2 + 4) + 2 * HEAD_DIM) * 4
        partial = attending * group * (HEAD_DIM + 12) * 4
        sums = max(2 * MANY * self.split_hidden * 4, partial) + 3 * FEW * self.max_split * 4
        rest = slices + sums + 2 * max(sizes.hidden, sizes.intermediate) + sizes.layers * 56 + 2048
        return (SHARED_BYTES - rest) // 1024 * 1024

    @property
    def max_split(self) -> int:
        return max(self.split_hidden, self.split_queries, self.split_inner)

    def constants(self) -> dict[str, int | float]:
        names = {name.upper(): value for name, value in asdict(self).items() if name not in ("ring", "chunk")}
        return {**names, "MAX_SPLIT": self.max_split, "RING_BYTES": self.ring, "CHUNK_BYTES": self.chunk}


def _even(groups: int, warps: int) -> int:
    return -(-groups // -(-groups // warps))


def misfit(sizes: Sizes) -> str | None:
    """Why the kernel cannot be compiled for a model, or None: the assertions of its files, in words."""
    queries = sizes.heads * sizes.head_dim
    checks = {
        f"heads have {sizes.head_dim} channels, but 64 were expected": sizes.head_dim == HEAD_DIM,
        f"{sizes.heads} query heads share {sizes.kv_heads} key heads, but at most {MAX_GROUP} may share one": (
            sizes.heads % sizes.kv_heads == 0 and sizes.heads <= MAX_GROUP * sizes.kv_heads
        ),
        f"the hidden state has {sizes.hidden} channels, but a multiple of 64 up to {MAX_HIDDEN} was expected": (
            sizes.hidden % GROUP == 0 and sizes.hidden <= MAX_HIDDEN
        ),
        f"the inner size is {sizes.intermediate}, but a multiple of 64 from {queries} on was expected": (
            sizes.intermediate % 64 == 0 and sizes.intermediate >= queries
        ),
        f"there are {sizes.layers} layers, but at most {MAX_LAYERS} were expected": sizes.layers <= MAX_LAYERS,
    }
    return next((reason for reason, holds in checks.items() if not holds), None)


def source(sizes: Sizes, tuning: Tuning, *, pure: bool = False, file: Path = KERNEL) -> str:
    """The whole kernel as text, which needs no other file and no header of ours. `pure`: as a function of one step."""
    constants = {**sizes.constants(), **tuning.fitted(sizes).constants(), "PURE": int(pure)}
    return with_constants(inlined(file), constants)
