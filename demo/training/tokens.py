"""The compact tokenizer of the demo model: one token for a bin, a word of layouts, or a line of the prompt.

It is a byte-level BPE, as Qwen's is, and run by the same code. Nothing has to be merged: a piece of text that the
vocabulary holds is one token (`ignore_merges`, as Llama 3 has it), any other is spelled in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.making.tokenizer import TEMPLATES
from runtime.prompt.content import CATEGORIES, DETECT_TYPES, user_content

NUM_BINS = 640
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|point_start|>", "<|point_end|>", "<|point_pad|>")
SYSTEM_MESSAGE = "You are a helpful assistant."
LAYOUT_WORDS = ("wall_", "door_", "window_", "bbox_", "=Wall(", "=Door(", "=Window(", "=Bbox(", ",", ")", ")\n")
# In this order: numbers; lines of the prompt's declarations; "=Wall("; ends of entities; names; words; all else.
PIECES = (
    r"\p{N}{1,3}|@dataclass\nclass \w+:\n|    \w+: \w+\n*|=[A-Z][a-z]+\(|\)\n?|[a-z]+(?:[_-][a-z]+)*_?| ?\p{L}+|"
    r"[^\s\p{L}\p{N}]|\s"
)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write tokenizer.json and tokenizer_config.json of the demo model; the ids of its special tokens."""
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": TEMPLATES["qwen"],
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 8192,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return special_ids(tokenizer)


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the special tokens by their text."""
    return {token: tokenizer.token_to_id(token) for token in SPECIAL}


def build_tokenizer() -> Any:
    """A `tokenizers.Tokenizer`. The same bins, words and prompts give the same ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    cut = _pieces()
    words = [*map(str, range(NUM_BINS)), *LAYOUT_WORDS, *CATEGORIES, *_words_of_prompts()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = dict.fromkeys([*alphabet, *(piece for word in words for piece, _ in cut.pre_tokenize_str(word))])
    vocabulary = {token: i for i, token in enumerate(known)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def render_prompt(detect_type: str) -> str:
    """The prompt as the chat template writes it, up to where the answer begins."""
    return (
        f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n{user_content(detect_type)}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def _pieces() -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])


def _words_of_prompts() -> Iterator[str]:
    """The prompts' text between special tokens."""
    for detect_type in DETECT_TYPES:
        text = render_prompt(detect_type)
        for token in SPECIAL:
            text = text.replace(token, "\0")
        yield from (part for part in text.split("\0") if part)
