"""Greedy answers to rooms, and how well they fit: the figures that the demo is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from demo.score import summary
from demo.training.batch import Maker, Question
from demo.training.language import generate
from demo.training.model import DemoModel
from demo.training.pack import layout_of

LIMIT = 640  # tokens of an answer; the longest of ten thousand rooms has fewer


@torch.no_grad()
def answers(model: DemoModel, maker: Maker, rooms: Sequence[int], size: int = 100, limit: int = LIMIT) -> list[str]:
    """Greedy texts of some rooms, as scans are."""
    texts: list[str] = []
    for first in range(0, len(rooms), size):
        batch = maker.batch([Question(room=room) for room in rooms[first : first + size]], answers=False)
        embeds = model.embeds(batch, model.see(batch)[0])
        stop = [maker.prompts.stop]
        said = generate(model.language_model, embeds, batch.lengths, batch.tables, maker.position.text, stop, limit)
        texts += [maker.prompts.decode([token for token in answer if token not in stop]) for answer in said]
    return texts


def score_rooms(model: DemoModel, maker: Maker, rooms: Sequence[int]) -> dict[str, Any]:
    """F1 of greedy answers against the ground truth, both in bins turned to metres."""
    texts = answers(model, maker, rooms)
    truths = [maker.prompts.decode(maker.store.answers[room][0]) for room in rooms]
    pairs = [(layout_of(text), layout_of(truth)) for text, truth in zip(texts, truths, strict=True)]
    return summary(pairs)
