"""What every back end offers: memory, engines, and copies that stay on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.errors import EngineError


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of an engine's input or output; a string in the shape is a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class Tensor(Protocol):
    """Memory of one back end, row-major. Views share it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    def __getitem__(self, index: int | slice, /) -> Tensor:
        """A view along the first axis: one entry (the axis goes) or consecutive ones."""
        ...


class Engine(Protocol):
    """One compiled graph: encoder, prefill or decode."""

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def limits(self) -> Mapping[str, int]:
        """The largest sizes of dynamic axes, by letter; axes that are not named have no limit."""
        ...

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Run once. Outputs named in `outputs` are written into that memory, the others into fresh memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What a decode step reads and leaves for the next, all on the device. int32 [B] by sequence unless said."""

    input_ids: Tensor  # [B, 1]
    past_length: Tensor  # rows in the cache
    starts: Tensor  # where the next row goes: past_length, or -1 once the sequence has ended
    taken: Tensor  # tokens chosen so far
    cos: Tensor  # float32 [B, 1, D], row past_length of the table
    sin: Tensor
    cos_table: Tensor  # float32 [M, D]
    sin_table: Tensor
    stop_ids: Tensor  # [stops]
    logits: Tensor  # float32 [B, 1, V]


class Ring(Protocol):
    """Tokens on their way to the host: int32 [slots, B]; entry `taken % slots` is the newest.

    -1 stands where the sequence had ended, -2 where the largest logit was no finite number.
    """

    @property
    def slots(self) -> int: ...

    def mark(self) -> Callable[[], None]:
        """Note how far the device has been asked to go; the result waits until it is there."""
        ...

    def read(self, slot: int) -> Array:
        """[B], once its mark was waited for."""
        ...


class StepKernels(Protocol):
    """What a decode step needs beside its engine, so that it does not return to the host."""

    def ring(self, slots: int, batch: int) -> Ring: ...

    def append_rows(self, source: Tensor, target: Tensor, starts: Tensor) -> None:
        """`Backend.scatter_rows` with starts on the device, int32 [B]; negative: leave the sequence as it is."""
        ...

    def next_tokens(self, state: StepState, ring: Ring) -> None:
        """Take the first of the largest logits of each sequence, and set the state for the step that feeds it."""
        ...

    def replay(self, tensors: Sequence[Tensor], action: Callable[[], None]) -> None:
        """Do `action`, which touches only these tensors; from a captured graph where that is possible."""
        ...


class Backend(Protocol):
    """Owns memory and loads engines, so a tensor walks from one engine to the next."""

    @property
    def name(self) -> str: ...

    @property
    def steps(self) -> StepKernels | None:
        """None where a step gains nothing from staying on the device."""
        ...

    def load(self, bundle: Bundle, graph: str) -> Engine: ...

    def exclusive(self) -> AbstractContextManager[object]:
        """Held by one pass at a time where engines cannot serve two threads; makes the device current."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        ...

    def close(self) -> None:
        """Give back engines and memory; a second call does nothing. Nothing of it may be used afterwards."""
        ...

    def zeros(self, shape: Sequence[int], dtype: str) -> Tensor: ...

    def upload(self, array: Array) -> Tensor: ...  # the only way in

    def write(self, array: Array, tensor: Tensor) -> None: ...  # the same, into memory that is there

    def download(self, tensor: Tensor) -> Array: ...  # the only way out

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy between tensors of equal shape, on the device."""
        ...

    def scatter_rows(self, source: Tensor, target: Tensor, starts: Sequence[int | None]) -> None:
        """target[:, starts[b] + t, b] = source[:, t, b] for all b, t: [X, T, B, K, D] into [X, M, B, K, D].

        A start of None leaves that sequence as it is. The caller has checked that the rows fit.
        """
        ...


def check_dialect(bundle: Bundle, backend: str) -> None:
    """A bundle is portable, or it has operators of the one back end that its dialect names. Raises EngineError."""
    dialect = bundle.manifest.dialect
    if dialect not in ("portable", backend):
        raise EngineError(
            f"{bundle.folder}: the graphs use operators of {dialect}, which the back end {backend!r} does not have. "
            f"Run them with --backend {dialect}, or export again without --quantization."
        )


def check_feeds(engine: Engine, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> None:
    """Compare every tensor with the engine's own description, dynamic axes of one name with each other.

    All inputs must be there; of the outputs, those that have memory of their own. Raises EngineError naming the
    tensor, what came, and what the engine takes.
    """
    given = outputs or {}
    if wrong := sorted((engine.inputs.keys() ^ feeds.keys()) | (given.keys() - engine.outputs.keys())):
        raise EngineError(
            f"{engine.name}: missing or unknown tensors: {', '.join(wrong)}. The bundle and the runtime differ."
        )
    axes: dict[str, tuple[int, str]] = {}
    for name, tensor in feeds.items():
        _check_tensor(engine.name, engine.inputs[name], tensor, axes)
    for name, tensor in given.items():
        _check_tensor(engine.name, engine.outputs[name], tensor, axes)


def _check_tensor(engine: str, spec: TensorSpec, tensor: Tensor, axes: dict[str, tuple[int, str]]) -> None:
    """Compare one tensor with its description; `axes` remembers what each dynamic axis was and where."""
    fits = tensor.dtype == spec.dtype and len(tensor.shape) == len(spec.shape)
    if not fits or any(
        isinstance(want, int) and want != have for want, have in zip(spec.shape, tensor.shape, strict=True)
    ):
        raise EngineError(
            f"{engine}: {spec.name!r} is {tensor.dtype}{list(tensor.shape)}, but the engine takes {spec}."
        )
    for axis, size in zip(spec.shape, tensor.shape, strict=True):
        if isinstance(axis, str) and (known := axes.setdefault(axis, (size, spec.name)))[0] != size:
            raise EngineError(
                f"{engine}: axis {axis} is {size} in {spec.name!r}, but {known[0]} in {known[1]!r}; they must agree."
            )
