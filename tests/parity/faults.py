"""The clean modules with one fault planted, each as an implementation might have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from export.checkpoint import Checkpoint
from export.modules.language_model import LOWEST, rotate
from export.parity.modules_rung import TorchBackend, TorchEngine
from runtime.bundle import Bundle
from runtime.engines.contract import Engine, Tensor
from runtime.engines.host import HostTensor, host_array
from runtime.manifest import RopeSpec
from runtime.rope import rope_table

Feeds = dict[str, Tensor]
Alter = Callable[[str, Feeds, int], Feeds]  # graph, feeds, how often it ran before -> feeds


class Altered(TorchEngine):
    """An engine whose inputs are altered on their way in."""

    def __init__(self, engine: TorchEngine, alter: Alter) -> None:
        super().__init__(engine.name, engine._module)
        self._alter, self._runs = alter, 0

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        altered = self._alter(self.name, dict(feeds), self._runs)
        self._runs += 1
        return super().run(altered, outputs)


class FaultyBackend(TorchBackend):
    """Modules over altered inputs, altered weights, or with an altered module."""

    def __init__(self, checkpoint: Any, alter: Alter | None = None, mend: Callable[[str, Any], None] | None = None):
        super().__init__(checkpoint)
        self._alter, self._mend = alter, mend

    def load(self, bundle: Bundle, graph: str) -> Engine:
        engine = super().load(bundle, graph)
        assert isinstance(engine, TorchEngine)
        if self._mend is not None:
            self._mend(graph, engine._module)
        return engine if self._alter is None else Altered(engine, self._alter)


class Scaled:
    """A checkpoint of which one tensor is off by one per cent."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.config, self._checkpoint, self._name = checkpoint.config, checkpoint, name

    def float_tensor(self, name: str) -> torch.Tensor:
        tensor = self._checkpoint.float_tensor(name)
        return tensor * 1.01 if name == self._name else tensor


def host(array: Any) -> HostTensor:
    return HostTensor(np.ascontiguousarray(array))


def text_table_for_points(graph: str, feeds: Feeds, _: int) -> Feeds:
    if graph == "prefill":
        return feeds | {"cos_3d": feeds["cos_1d"], "sin_3d": feeds["sin_1d"]}
    return feeds


def stale_row(graph: str, feeds: Feeds, _: int) -> Feeds:
    """One row behind the valid ones is attended to."""
    return feeds | {"past_length": host(host_array(feeds["past_length"]) + 1)} if graph == "decode" else feeds


def first_position_off_by_one(spec: RopeSpec) -> Alter:
    """The first token after the prompt stands where the last of it stood."""

    def alter(graph: str, feeds: Feeds, runs: int) -> Feeds:
        if graph != "decode" or runs > 0:
            return feeds
        cos, sin = rope_table(host_array(feeds["past_length"]) - 1, None, spec)
        return feeds | {"cos": host(cos[:, None]), "sin": host(sin[:, None])}

    return alter


def mirrored_neighbours(graph: str, feeds: Feeds, _: int) -> Feeds:
    if graph == "encoder":
        return feeds | {"neighbours.0": host(host_array(feeds["neighbours.0"])[:, ::-1])}
    return feeds


def swapped_orders(graph: str, feeds: Feeds, _: int) -> Feeds:
    if graph != "encoder":
        return feeds
    swap = {
        "order.0.0": "order.0.1",
        "order.0.1": "order.0.0",
        "inverse.0.0": "inverse.0.1",
        "inverse.0.1": "inverse.0.0",
    }
    return feeds | {name: feeds[other] for name, other in swap.items()}


def shifted_mask(graph: str, module: Any) -> None:
    """Every query also sees the position behind it."""
    if graph == "prefill":
        plain = module.visible

        def visible(lengths: torch.Tensor, positions: int) -> torch.Tensor:
            seen = plain(lengths, positions)
            return seen | torch.roll(seen, -1, dims=-2)

        module.visible = visible


def wrong_head_group(graph: str, module: Any) -> None:
    """In layer 0 the query heads of one key head read another's: their projections stand in another order."""
    if graph == "prefill":
        layer = next(iter(module.model))
        weight = layer.q_proj.weight
        with torch.no_grad():
            layer.q_proj.weight = torch.nn.Parameter(
                torch.roll(weight, weight.shape[0] // 2, dims=0), requires_grad=False
            )


def restore_left_out(layer: int) -> Callable[[str, Any], None]:
    """In one layer point tokens keep the 1D turn that follows their 3D one."""

    def mend(graph: str, module: Any) -> None:
        if graph != "prefill":
            return
        feeds: dict[str, torch.Tensor] = {}
        module.register_forward_pre_hook(lambda _, args, given: feeds.update(given), with_kwargs=True)
        module.register_forward_hook(lambda *_: feeds.clear())  # decode has the same layers
        changed = [*module.model][layer]
        plain = changed.project

        def project(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            query, key, value = plain(*args)
            if not feeds:
                return query, key, value
            at_point, table = feeds["point_mask"][..., None, None], (feeds["cos_1d"], feeds["sin_1d"])
            twice = (torch.where(at_point, rotate(x, *table), x) for x in (query, key))
            return *twice, value

        changed.project = project

    return mend


def softmax_summed_in_half(scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Exponentials are added one after another in float16, where 2048 and 1 make 2048."""
    shown = torch.where(visible, scores, LOWEST)
    shares = (shown - shown.amax(dim=-1, keepdim=True)).half().exp()
    total = torch.zeros_like(shares[..., 0])
    for column in shares.movedim(-1, 0).contiguous():
        total += column
    return (shares / total[..., None]).float()
