"""Compiled plans as engines of the contract. Prefill and decode are two views of one plan, or each has its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorrt as trt

from runtime.engines import trt_compat as compat
from runtime.engines.contract import Tensor, TensorSpec, check_feeds
from runtime.engines.cuda.memory import DeviceTensor, on_device
from runtime.engines.record import PlanRecord
from runtime.engines.trt_context import Call, Context, Kind, Shape, kind_of
from runtime.engines.trt_views import View
from runtime.errors import EngineError

if TYPE_CHECKING:  # the back end makes these engines
    from runtime.engines.trt import TrtBackend

OPTIONS = {"B": "--max_batch", "P": "--max_point_tokens", "S": "--max_length", "M": "--max_length"}  # others: voxels
Range = tuple[Shape, Shape]  # smallest and largest shape of an input


def input_shapes(engine: Any) -> dict[str, Shape]:
    """Inputs of a plan by name, -1 where the size is dynamic."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    fed = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return {name: tuple(map(int, engine.get_tensor_shape(name))) for name in fed}


class TrtEngine:
    """A view of a plan, with its execution contexts."""

    def __init__(
        self,
        name: str,
        view: View,
        engine: Any,
        record: PlanRecord,
        backend: TrtBackend,
        held: Mapping[str, DeviceTensor] | None = None,
    ) -> None:
        """`held` are inputs of the plan that stay as they are and that nobody feeds, such as weights."""
        self.name, self.view, self._held = name, view, dict(held or {})
        self._engine, self._record, self._backend = engine, record, backend
        self._profile = list(record.profiles).index(self.view.profile)
        self._contexts: dict[tuple[Shape, ...] | None, Context] = {}
        self._last: Call | None = None
        self._filled: dict[tuple[str, Shape], Tensor] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = input_shapes(engine)
        self._plan_inputs = [name for name in inputs if name not in self._held]
        self._ranges = {name: self._range(name) for name in self._plan_inputs}
        self._fed = {name: self._feed(name) for name in self._plan_inputs if name not in self.view.fills}
        self.inputs = {feed: self._spec(name, feed) for name, feed in self._fed.items()}
        self.outputs = {name: self._spec(name, name) for name in names if name not in inputs}
        self.limits = self._limits()

    @property
    def smallest(self) -> dict[str, Shape]:
        """The smallest shape of each input."""
        return {self._feed(name): low for name, (low, _) in self._ranges.items()}

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        given = outputs or {}
        call = self._call(feeds, given)
        results = {name: given.get(name) or self._fresh(name, shape) for name, shape in call.outputs.items()}
        fed = {name: feeds[feed] for name, feed in self._fed.items()}
        addresses = {name: on_device(tensor).address for name, tensor in (*fed.items(), *results.items())}
        call.context.use_addresses(addresses | call.addresses)
        if not call.context.run(self._backend.stream):
            raise EngineError(f"{self.name}: TensorRT could not run it{self._said()}.")
        return results

    def try_once(self) -> None:
        """Run on zeros of the smallest shapes, so that a kernel missing on this GPU shows now. Raises EngineError."""
        self.run({name: self._backend.zeros(self.smallest[name], spec.dtype) for name, spec in self.inputs.items()})
        self._backend.synchronize()

    def close(self) -> None:
        self._last = None
        self._contexts.clear()
        self._filled.clear()
        self._held.clear()
        self._engine = None

    def _call(self, feeds: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Call:
        """The last one again, where these tensors are of the same kinds; its context is ready for them."""
        kinds = kind_of(feeds), kind_of(given)
        if self._last is None or self._last.kinds != kinds:
            self._last = self._new_call(kinds, feeds, given)
        self._tell(self._last.context, self._last.shapes)
        return self._last

    def _new_call(self, kinds: tuple[Kind, Kind], feeds: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Call:
        check_feeds(self, feeds, given)
        bound = self._bound(feeds)
        shapes = {name: bound[name].shape for name in self._plan_inputs}
        context = self._context(shapes)
        self._tell(context, shapes)
        outputs = {name: self._output_shape(context.native, name) for name in self.outputs}
        self._check_room(given, outputs)
        unfed = {name: bound[name] for name in self.view.fills} | self._held
        addresses = {name: on_device(tensor).address for name, tensor in unfed.items()}
        return Call(kinds=kinds, context=context, shapes=shapes, outputs=outputs, addresses=addresses)

    def _feed(self, name: str) -> str:
        return self.view.feeds.get(name, name)

    def _range(self, name: str) -> Range:
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        return tuple(low), tuple(high)

    def _spec(self, name: str, shown: str) -> TensorSpec:
        sizes: tuple[int | str, ...]
        if (axes := self._record.inputs.get(name)) is not None:  # also where a plan shows the only size of a letter
            sizes = tuple(int(axis) if axis.isdigit() else self.view.letters.get(axis, axis) for axis in axes)
        else:  # an output, whose axes nobody has named
            shape = enumerate(self._engine.get_tensor_shape(name))
            sizes = tuple(f"{name}.{axis}" if size < 0 else int(size) for axis, size in shape)
        if shown == "logits" and self.name == "decode" and len(sizes) == 2:  # of the shared graph: T is one there
            sizes = (sizes[0], 1, *sizes[1:])
        return TensorSpec(shown, compat.dtype_name(self._engine.get_tensor_dtype(name)), sizes)

    def _limits(self) -> dict[str, int]:
        return {
            axis: largest
            for name, feed in self._fed.items()
            for axis, largest in zip(self.inputs[feed].shape, self._ranges[name][1], strict=True)
            if isinstance(axis, str)
        }

    def _bound(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the plan's own input names. Raises EngineError for a size that the plan was not built for."""
        bound = {name: feeds[feed] for name, feed in self._fed.items()}
        for name, tensor in bound.items():
            self._check_range(name, tensor.shape)
        sizes = {
            letter: size
            for name, tensor in bound.items()
            for letter, size in zip(self._record.inputs[name], tensor.shape, strict=True)
        }
        return bound | {name: self._fill(name, sizes) for name in self.view.fills}

    def _check_range(self, name: str, shape: Shape) -> None:
        axes = self.inputs[self._feed(name)].shape
        for axis, size, low, high in zip(axes, shape, *self._ranges[name], strict=True):
            if not low <= size <= high:
                option = OPTIONS.get(str(axis), "--max_voxels")
                less = "Run fewer scenes at a time" if axis == "B" else "Crop the scene"
                raise EngineError(
                    f"{self.name}: {self._feed(name)!r} is {list(shape)}, but this engine was built for {low} to "
                    f"{high} along {axis}. {less}, or build the engines again with a larger {option}."
                )

    def _check_room(self, given: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> None:
        for name, tensor in given.items():
            if tensor.shape != shapes[name]:
                raise EngineError(
                    f"{self.name}: {name!r} is {list(shapes[name])}, but has room for {list(tensor.shape)}."
                )

    def _fill(self, name: str, sizes: Mapping[str, int]) -> Tensor:
        """A constant input in the sizes of the others, along axes of its own in its smallest. It is made once."""
        axes, smallest = self._record.inputs[name], self._ranges[name][0]
        shape = tuple(sizes.get(axis, low) for axis, low in zip(axes, smallest, strict=True))
        if (name, shape) not in self._filled:
            dtype, value = compat.dtype_name(self._engine.get_tensor_dtype(name)), self.view.fills[name]
            tensor = self._backend.upload(np.full(shape, value, dtype)) if value else self._backend.zeros(shape, dtype)
            self._filled[name, shape] = tensor
        return self._filled[name, shape]

    def _context(self, shapes: Mapping[str, Shape]) -> Context:
        """The one for these shapes, where an engine keeps one for each; else its only one."""
        key = tuple(shapes.values()) if self.view.keeps_contexts else None
        if key not in self._contexts:
            self._contexts[key] = self._new_context()
        return self._contexts[key]

    def _tell(self, context: Context, shapes: Mapping[str, Shape]) -> None:
        """The scratch memory as it is now, and the shapes of the inputs."""
        context.use_scratch(self._backend.scratch)
        if refused := context.use_shapes(shapes):
            raise EngineError(f"{self.name}: TensorRT refuses {list(shapes[refused])} for {refused!r}{self._said()}.")

    def _new_context(self) -> Context:
        context = compat.create_context(self._engine)
        if context is None or not context.set_optimization_profile_async(self._profile, self._backend.stream):
            raise EngineError(f"{self.name}: TensorRT made no context{self._said()}.")
        return Context(context)

    def _output_shape(self, context: Any, name: str) -> Shape:
        shape = tuple(context.get_tensor_shape(name))
        return (shape[0], 1, *shape[1:]) if len(shape) < len(self.outputs[name].shape) else shape

    def _fresh(self, name: str, shape: Shape) -> DeviceTensor:
        return self._backend.empty(shape, self.outputs[name].dtype)

    def _said(self) -> str:
        return self._backend.messages.last()
