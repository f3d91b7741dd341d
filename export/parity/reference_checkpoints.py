"""The nine checkpoints of the literal reference, seen while it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from export.parity.checkpoints import TABLES, Checkpoint, CheckpointDifference, Checkpoints, Taps, compare_layer
from export.parity.limits import Limits
from export.reference import Reference
from export.reference.cache_name import CACHE
from runtime.scene import Scene

NUMBER = re.compile(r"\[CHECKPOINT (\d)\]")
Visit = Callable[[int, Checkpoints], None]  # called with each layer's, in order, while the reference runs


def compare_with_reference(
    reference: Reference, scene: Scene, taps: Taps, limits: Limits
) -> list[CheckpointDifference]:
    """The reference over the scene's prompt against a graph's taps, layer by layer; one layer is held at a time.

    Raises SceneError where the taps are of another prompt.
    """
    found: list[CheckpointDifference] = []

    def visit(layer: int, want: Checkpoints) -> None:
        found.extend(compare_layer(layer, want, taps.checkpoints(layer), limits))

    run_reference(reference, scene, taps.layers, visit)
    return found


def reference_checkpoints(reference: Reference, scene: Scene, layers: Iterable[int]) -> dict[int, Checkpoints]:
    """All checkpoints of the layers named; each layer holds seven pairs as long as the prompt."""
    found: dict[int, Checkpoints] = {}
    run_reference(reference, scene, layers, found.__setitem__)
    return found


def run_reference(reference: Reference, scene: Scene, layers: Iterable[int], visit: Visit) -> None:
    """Prefill one scene under `watching`."""
    tokens = reference.encode(scene.inputs.feeds)
    with watching(reference, layers, visit):
        reference.prefill([scene.text_ids], [tokens], [scene.patch_coords])


@contextmanager
def watching(reference: Reference, layers: Iterable[int], visit: Visit) -> Iterator[None]:
    """Inside, each prefill of one sequence is seen by `visit`. Tensors are copies, [S, heads, D] and [S, D]."""
    with ExitStack() as stack:
        for layer in layers:
            attention = reference.language_model.model.layers[layer].self_attn
            stack.enter_context(_Watcher(layer, visit).over(attention))
        yield


class _Watcher:
    """One layer: what the literal form shows, or, where no token is turned in 3D, what passes the modules."""

    def __init__(self, layer: int, visit: Visit) -> None:
        self._layer, self._visit = layer, visit
        self._projected: dict[str, Tensor] = {}
        self._seen: dict[int, Checkpoint] = {}

    @contextmanager
    def over(self, attention: Any) -> Iterator[None]:
        handles = [
            attention.q_proj.register_forward_hook(lambda *call: self._project("query", call[2])),
            attention.k_proj.register_forward_hook(lambda *call: self._project("key", call[2])),
            attention.register_forward_hook(self._finish, with_kwargs=True),
        ]
        attention.watch = self._see
        try:
            yield
        finally:
            attention.watch = None
            for handle in handles:
                handle.remove()

    def _see(self, line: str, **tensors: Tensor) -> None:
        """In place of the printer of SPATIALLM_VERBOSE; lines without tensors say nothing more."""
        if tensors:
            number = int(NUMBER.match(line)[1])  # type: ignore[index]
            self._seen[number] = _checkpoint(number, *tensors.values())

    def _project(self, kind: str, output: Tensor) -> None:
        self._projected[kind] = output.clone()

    def _finish(self, attention: Any, _inputs: Any, call: dict[str, Any], _output: Any) -> None:
        if not self._seen:
            cos, sin = call["position_embeddings"]
            self._see_plain(attention, cos, sin, call[CACHE])
        self._visit(self._layer, dict(sorted(self._seen.items())))
        self._seen = {}

    def _see_plain(self, attention: Any, cos: Tensor, sin: Tensor, cache: Any) -> None:
        """Attention of transformers itself: 8 is made by its own function, of 9 the cache holds the keys."""
        shape = (1, cos.shape[1], -1, attention.head_dim)
        query, key = (self._projected[kind].view(shape).transpose(1, 2) for kind in ("query", "key"))
        turned_query, turned_key = apply_rotary_pos_emb(query, key, cos, sin)
        self._seen = {
            1: _checkpoint(1, query, key),
            6: _checkpoint(6, cos, sin),
            8: _checkpoint(8, turned_query, turned_key),
            9: _checkpoint(9, turned_query, cache.layers[self._layer].keys),
        }


def _checkpoint(number: int, first: Tensor, second: Tensor) -> Checkpoint:
    """Copies without the batch axis: heads behind positions."""
    if number in TABLES:
        return Checkpoint({"cos": _rows(first), "sin": _rows(second)})
    return Checkpoint({"query": _rows(first.transpose(1, 2)), "key": _rows(second.transpose(1, 2))})


def _rows(tensor: Tensor) -> Any:
    """float32; the 3D table has no batch axis to lose."""
    return (tensor if tensor.ndim == 2 else tensor[0]).float().numpy().copy()
