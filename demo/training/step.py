"""One training step: forward, backward, clipping, AdamW. On a GPU it is captured once and replayed."""

from __future__ import annotations

import dataclasses
import gc
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from demo.training.batch import Batch
from demo.training.hints import STAGE, HintHeads
from demo.training.loss import Loss
from demo.training.model import DemoModel

CLIP = 1.0  # of the gradient's length
DECAY = 0.05
BETAS = (0.9, 0.98)
WARM_UPS = 3  # eager steps before a capture, without an update


class Learner:
    """Model, heads, gradients in one flat tensor, and their optimizer."""

    def __init__(self, model: DemoModel, loss: Loss, device: torch.device, *, hints: float) -> None:
        self.model, self.loss, self.device, self.hints = model, loss, device, hints
        spec = model.config
        self.heads = HintHeads(spec.encoder.channels[STAGE], spec.language_model.hidden_size).to(device)
        self.parameters = list(dict.fromkeys([*model.parameters(), *self.heads.parameters()]))
        self._flat = torch.zeros(sum(p.numel() for p in self.parameters), device=device)
        for parameter, gradient in zip(
            self.parameters, self._flat.split([p.numel() for p in self.parameters]), strict=True
        ):
            parameter.grad = gradient.view_as(parameter)
        self.rate = torch.zeros((), device=device)
        self.optimizer = _optimizer(self.parameters, self.rate, device)

    def losses(self, batch: Batch) -> Tensor:
        """[3]: what is minimized, plain cross entropy of the answers, what the heads miss."""
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda, cache_enabled=False):
            points, stages = self.model.see(batch)
            loss, exact = self.loss(self.model, batch, points)
            missed = self.heads.loss(stages[STAGE], points, batch.hints)
        return torch.stack([loss + self.hints * missed, exact, missed.detach()])

    def backward(self, batch: Batch) -> Tensor:
        """Losses, and their gradients in place of the old ones."""
        self._flat.zero_()
        losses = self.losses(batch)
        losses[0].backward()
        return losses.detach()

    def update(self) -> None:
        """Clip and step."""
        length = torch.linalg.vector_norm(self._flat)
        self._flat.mul_((CLIP / (length + 1e-6)).clamp(max=1))
        self.optimizer.step()

    def remembered(self) -> Callable[[], None]:
        """Puts weights and the optimizer's state back, in place, to what they are now; nothing yet is zeros."""
        weights = [parameter.detach().clone() for parameter in self.parameters]
        states = [{n: v.clone() for n, v in self.optimizer.state.get(p, {}).items()} for p in self.parameters]

        @torch.no_grad()
        def undo() -> None:
            for parameter, weight, state in zip(self.parameters, weights, states, strict=True):
                parameter.copy_(weight)
                for name, value in self.optimizer.state.get(parameter, {}).items():
                    value.copy_(state.get(name, torch.zeros_like(value)))

        return undo

    def average(self, ranks: int) -> None:
        """The mean of all ranks' gradients."""
        if ranks > 1:
            dist.all_reduce(self._flat, op=dist.ReduceOp.AVG)


class EagerStep:
    """The plain twin: every kernel launched by itself."""

    def __init__(self, learner: Learner, ranks: int) -> None:
        self._learner, self._ranks = learner, ranks

    def __call__(self, batch: Batch) -> Tensor:
        """Losses [3] of a batch, after which the model has changed."""
        losses = self._learner.backward(batch)
        self._learner.average(self._ranks)
        self._learner.update()
        return losses


class GraphStep:
    """Two CUDA graphs over tensors of fixed shape: one to the gradients, one from them to the new weights."""

    def __init__(self, learner: Learner, ranks: int, example: Batch) -> None:
        self._learner, self._ranks = learner, ranks
        self._batch = _copied(example)
        self._places = _by_type(self._batch)
        self._warm_up()
        self._backward, self._update = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        gc.collect()  # what lies in cycles is not to be freed while a graph is captured
        # A capture that fails leaves its own stream the current one: the outer context puts it back.
        with torch.cuda.stream(torch.cuda.current_stream()):
            with torch.cuda.graph(self._backward, capture_error_mode="thread_local"):
                self._losses = learner.backward(self._batch)
            with torch.cuda.graph(self._update, capture_error_mode="thread_local"):
                learner.update()

    def __call__(self, batch: Batch) -> Tensor:
        """As EagerStep; the losses are overwritten by the next call."""
        for dtype, tensors in _by_type(batch).items():
            torch._foreach_copy_(self._places[dtype], tensors)
        self._backward.replay()
        self._learner.average(self._ranks)
        self._update.replay()
        return self._losses

    def _warm_up(self) -> None:
        """Libraries choose kernels and take memory at their first calls, which a capture cannot hold. The optimizer's
        state must exist too: an update makes it, and is undone."""
        undo = self._learner.remembered()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._learner.backward(self._batch)
            self._learner.update()
        torch.cuda.current_stream().wait_stream(stream)
        undo()


def _optimizer(parameters: list[nn.Parameter], rate: Tensor, device: torch.device) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if device.type != "cuda":
        return torch.optim.AdamW(groups, lr=rate, betas=BETAS)
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True, capturable=True)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor in dataclasses, lists and dictionaries, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def _by_type(batch: Batch) -> dict[torch.dtype, list[Tensor]]:
    found: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for tensor in tensors_of(batch):
        found[tensor.dtype].append(tensor)
    return found


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {field.name: _copied(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return type(value)(**own)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
