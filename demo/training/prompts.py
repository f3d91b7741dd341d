"""Prompts and answers as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from demo.training.tokens import build_tokenizer, render_prompt, special_ids
from runtime.prompt.content import DETECT_TYPES

DROPPED = 0  # what sequences are filled up with; nothing looks at it


class Prompts:
    """The prompt of each detect type, cut where the point tokens stand, and answers cut to what was asked for."""

    def __init__(self) -> None:
        tokenizer = build_tokenizer()
        ids = special_ids(tokenizer)
        self.point_token, self.stop = ids["<|point_pad|>"], ids["<|im_end|>"]
        self.tokenizer = tokenizer
        self._line_end, self._end = tokenizer.token_to_id(")Ċ"), tokenizer.token_to_id(")")
        self._box = tokenizer.token_to_id("bbox_")
        self._halves = {kind: self._cut(render_prompt(kind)) for kind in DETECT_TYPES}

    def _cut(self, text: str) -> tuple[list[int], list[int]]:
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        place = ids.index(self.point_token)
        return ids[:place], ids[place + 1 :]

    def halves(self, kind: str) -> tuple[list[int], list[int]]:
        """Ids before and after the point tokens."""
        return self._halves[kind]

    def encode(self, text: str) -> list[int]:
        """Ids of a layout's text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        text: str = self.tokenizer.decode(list(ids))
        return text

    def answer(self, layout: Sequence[int], kind: str) -> list[int]:
        """The whole layout's ids cut to the kind, and the stop token. Boxes come last in a layout."""
        layout = list(layout)
        first_box = layout.index(self._box) if self._box in layout else len(layout)
        said = {"all": layout, "arch": layout[:first_box], "object": layout[first_box:]}[kind]
        if said and said[-1] == self._line_end:  # the last line of an answer has no line end
            said = [*said[:-1], self._end]
        return [*said, self.stop]
