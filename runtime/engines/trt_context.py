"""Execution contexts that are told only what has changed: every word to TensorRT goes through Python's bindings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.engines import trt_compat as compat
from runtime.engines.contract import Tensor

if TYPE_CHECKING:  # the back end has the scratch memory
    from runtime.engines.trt import Scratch

Shape = tuple[int, ...]
Kind = list[tuple[str, str, Shape]]  # name, dtype and shape of each tensor


class Context:
    """One of TensorRT's contexts, which nobody else tells anything, and what it was told last."""

    def __init__(self, context: Any) -> None:
        self.native = context
        self.forget()

    def forget(self) -> None:
        """Tell it all anew, as after a failure: who knows what it still holds."""
        self._scratch = 0
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}

    def use_scratch(self, scratch: Scratch) -> None:
        """Working memory. Where it has moved, all else is told anew too."""
        if (address := scratch.address) != self._scratch:
            self.forget()
            compat.set_scratch(self.native, address, scratch.bytes)
            self._scratch = address

    def use_shapes(self, shapes: Mapping[str, Shape]) -> str | None:
        """Shapes of all inputs; the name of one that TensorRT refuses, or None."""
        if shapes == self._shapes:
            return None
        for name, shape in shapes.items():
            if self._shapes.get(name) == shape:
                continue
            self._shapes.pop(name, None)
            if not self.native.set_input_shape(name, shape):
                return name
            self._shapes[name] = shape
        return None

    def use_addresses(self, addresses: Mapping[str, int]) -> None:
        """Where all inputs and outputs lie."""
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                self.native.set_tensor_address(name, address)
                self._addresses[name] = address

    def run(self, stream: int) -> bool:
        """Ask for a run with all that it was told; False where TensorRT cannot."""
        if not (asked := bool(self.native.execute_async_v3(stream))):
            self.forget()
        return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is known of a run, and of all others over tensors of the same kinds: these were checked."""

    kinds: tuple[Kind, Kind]  # of what is fed, and of the outputs that have memory
    context: Context
    shapes: Mapping[str, Shape]  # of all inputs of the plan
    outputs: Mapping[str, Shape]
    addresses: dict[str, int]  # of the inputs that nobody feeds


def kind_of(tensors: Mapping[str, Tensor]) -> Kind:
    """All that checks look at."""
    return [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
