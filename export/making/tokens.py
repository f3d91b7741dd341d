"""Special tokens of a random checkpoint: the published ids for `real`, the end of the vocabulary for `tiny`."""

from __future__ import annotations

from dataclasses import dataclass

TINY_VOCABULARY = 1000
POINT_TOKENS = ("<|point_start|>", "<|point_end|>", "<|point_pad|>")
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *POINT_TOKENS)
LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    *POINT_TOKENS,
)
# Qwen2.5's ids, its vision tokens renamed as SpatialLM did; Llama 3.2's, with three reserved ones for the points.
_REAL_QWEN = (151643, 151644, 151645, 151652, 151653, 151654)
_REAL_LLAMA = (128000, 128001, 128006, 128007, 128008, 128009, 128011, 128012, 128013)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Ids by role, and all special tokens by text."""

    by_token: dict[str, int]
    bos: int
    stop: tuple[int, ...]
    point_start: int
    point_end: int
    point_pad: int


def special_ids(family: str, size: str) -> SpecialIds:
    """The special tokens of a family at a size."""
    tokens = QWEN_TOKENS if family == "qwen" else LLAMA_TOKENS
    ids: tuple[int, ...] = tuple(range(TINY_VOCABULARY - len(tokens), TINY_VOCABULARY))
    if size == "real":
        ids = _REAL_QWEN if family == "qwen" else _REAL_LLAMA
    by_token = dict(zip(tokens, ids, strict=True))
    bos = "<|endoftext|>" if family == "qwen" else "<|begin_of_text|>"
    stop = ["<|im_end|>"] if family == "qwen" else ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    start, end, pad = (by_token[token] for token in POINT_TOKENS)
    return SpecialIds(
        by_token=by_token,
        bos=by_token[bos],
        stop=tuple(by_token[token] for token in stop),
        point_start=start,
        point_end=end,
        point_pad=pad,
    )
