"""What training minimizes: cross entropy of the answers, a part of it given to the bins beside the right one."""

from __future__ import annotations

import torch
from torch import Tensor

from demo.training.batch import Batch
from demo.training.model import DemoModel
from demo.training.prompts import Prompts
from demo.training.tokens import NUM_BINS

BESIDE = {-2: 0.05, -1: 0.1, 1: 0.1, 2: 0.05}  # share of a bin's weight that its neighbours get
COUNTED = ("wall_", "door_", "window_", "bbox_")  # a number after one of these is a name, not a length


class Loss:
    """Bins are numbers: to be one bin off is nearly right, which one-hot targets do not say."""

    def __init__(self, prompts: Prompts, vocabulary: int, device: torch.device) -> None:
        token = prompts.tokenizer.token_to_id
        self._ids = torch.tensor([token(str(number)) for number in range(NUM_BINS)], device=device)
        self._numbers = torch.full((vocabulary,), -1, device=device)
        self._numbers[self._ids] = torch.arange(NUM_BINS, device=device)
        self._counted = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self._counted[[token(name) for name in COUNTED]] = True

    def __call__(self, model: DemoModel, batch: Batch, points: Tensor) -> tuple[Tensor, Tensor]:
        """(what is minimized, plain cross entropy), means over the answers' tokens."""
        said = batch.answers
        states = model.states(batch, points).flatten(0, 1).index_select(0, said.before)
        with torch.autocast(states.device.type, enabled=False):  # in bf16 bins side by side often get the same logit
            log = torch.log_softmax(model.language_model.logits(states).float(), dim=-1)  # [T, V]
        exact = log.gather(1, said.target[:, None])[:, 0]
        number = self._numbers[said.target]
        is_length = (number >= 0) & ~self._counted[said.previous]
        shared = exact * (1 - sum(BESIDE.values()))
        for step, share in BESIDE.items():
            beside = self._ids[(number + step).clamp(0, NUM_BINS - 1)]
            shared = shared + share * log.gather(1, beside[:, None])[:, 0]
        weight = said.weight / said.weight.sum()
        return -(torch.where(is_length, shared, exact) * weight).sum(), -(exact.detach() * weight).sum()
