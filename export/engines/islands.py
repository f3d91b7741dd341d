"""Before TensorRT 9 a float16 build may compute any layer in float16. Here the float32 parts are asked to stay so.

The graphs say by their casts which parts are float32, and the parsed network still shows it in its tensors' types. Not
every layer can be held: with all of them TensorRT 8.6 finds no kernel for some graphs. So layers are chosen by the part
they belong to, an "island", and the constraint is preferred, not obeyed: where it cannot be met, TensorRT warns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

FLOAT = "FLOAT"  # TensorRT's name of float32
HALF = "HALF"  # and of float16
PRODUCT = "half"  # products of float16 values; the other islands are of float32
WHOLE = "all"  # float16 is not allowed anywhere; halves at the border are converted
ISLANDS = ("norm", "softmax", "elementwise", PRODUCT, WHOLE)
# On an H200 with TensorRT 8.6.0: norms in float16 overflow where one channel of the residual stream is large, as in
# trained models; holding them costs 1 to 5 %. Holding the softmax too is free for decode, but prefill then takes 3.5
# times as long. The encoder's body is float32 throughout.
DEFAULTS: dict[str, tuple[str, ...]] = {
    "encoder": (WHOLE,),
    "language_model": ("norm",),
    "prefill": ("norm",),
    "decode": ("norm",),
}
NORM = frozenset({"REDUCE", "ELEMENTWISE", "UNARY"})  # Pow, ReduceMean, Add, Sqrt, Div
SCORES = frozenset({"SOFTMAX", "SELECT", "ELEMENTWISE", "CONCATENATION", "SLICE", "SHUFFLE"})
PRODUCTS = frozenset({"MATRIX_MULTIPLY"})
POINTWISE = frozenset({"ELEMENTWISE", "UNARY", "ACTIVATION"})


def pin_islands(network: Any, islands: Collection[str]) -> list[str]:
    """Ask for their own type in the layers of the islands; returns their names.

    norm: root-mean-square norms (what hangs together around a mean) and normalization layers.
    softmax: each softmax with the scores before it and the probabilities after it.
    elementwise: all arithmetic on float32 values, so rotations and activations too.
    half: no float32, but the products of float16 values held in float16. A compiled part with a layer that is held
        is not compiled in the other type as well (https://github.com/NVIDIA/TensorRT/issues/3604).
    all: nothing is asked for, because float16 is not allowed at all.
    """
    layers = _Layers(network, FLOAT)
    chosen = {layer.name: layer for island in islands if island in _MEMBERS for layer in _MEMBERS[island](layers)}
    if PRODUCT in islands:
        chosen |= {layer.name: layer for layer in _Layers(network, HALF).of(PRODUCTS)}
    for layer in chosen.values():
        if hasattr(layer, "set_output_type"):  # strong types need no pins, and version 11 has none
            layer.precision = layer.get_output(0).dtype
            for index in range(layer.num_outputs):
                layer.set_output_type(index, layer.get_output(index).dtype)
    return list(chosen)


class _Layers:
    """The network's layers whose outputs are all of one type, and who feeds whom among them."""

    def __init__(self, network: Any, dtype: str) -> None:
        every = [network.get_layer(index) for index in range(network.num_layers)]
        self.all = [layer for layer in every if {str(tensor.dtype.name) for tensor in _outputs(layer)} == {dtype}]
        self._maker = {tensor.name: layer for layer in self.all for tensor in _outputs(layer)}
        self._takers: dict[str, list[Any]] = defaultdict(list)
        for layer in self.all:
            for tensor in _inputs(layer):
                self._takers[tensor.name].append(layer)

    def of(self, kinds: Collection[str]) -> list[Any]:
        return [layer for layer in self.all if layer.type.name in kinds]

    def around(self, kind: str, kinds: Collection[str]) -> list[Any]:
        """Layers of `kinds` that hang together, directly or through one another, with a layer of `kind`."""
        found, open_ends = {}, self.of({kind})
        while open_ends:
            layer = open_ends.pop()
            if layer.name not in found:
                found[layer.name] = layer
                open_ends += [other for other in self._beside(layer) if other.type.name in kinds]
        return list(found.values())

    def _beside(self, layer: Any) -> Iterator[Any]:
        for tensor in _inputs(layer):
            if tensor.name in self._maker:
                yield self._maker[tensor.name]
        for tensor in _outputs(layer):
            yield from self._takers[tensor.name]


_MEMBERS = {
    "norm": lambda layers: layers.around("REDUCE", NORM) + layers.of({"NORMALIZATION"}),
    "softmax": lambda layers: layers.around("SOFTMAX", SCORES),
    "elementwise": lambda layers: layers.of(POINTWISE),
}


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _inputs(layer: Any) -> list[Any]:
    """An optional input may be absent."""
    tensors = (layer.get_input(index) for index in range(layer.num_inputs))
    return [tensor for tensor in tensors if tensor is not None]
