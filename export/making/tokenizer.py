"""A working byte-level BPE tokenizer with a chat template, trained on layout text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from export.making.tokens import special_ids

MERGES = 400  # on top of 256 bytes; enough for words of layouts and prompts
# Words with one leading blank or sign, numbers of up to three digits, runs of signs, line ends, other white space.
PRE_TOKENS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
TEMPLATES = {
    "qwen": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama": (
        "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        "{{ message['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
}
_FIELDS = {
    "Wall": "ax ay az bx by bz height thickness",
    "Door": "wall_id position_x position_y position_z width height",
    "Window": "wall_id position_x position_y position_z width height",
    "Bbox": "class position_x position_y position_z angle_z scale_x scale_y scale_z",
}
_CLASSES = ["sofa", "chair", "dining_table", "bed", "nightstand", "wardrobe", "coffee_table", "curtain", "carpet"]


def write_tokenizer(folder: Path, family: str, size: str, vocab_size: int, seed: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json; every id below `vocab_size` decodes."""
    tokenizer = _build(family, size, vocab_size, seed)
    tokenizer.save(str(folder / "tokenizer.json"))
    bos = None if family == "qwen" else "<|begin_of_text|>"
    eos = "<|im_end|>" if family == "qwen" else "<|eot_id|>"
    names = {"bos_token": bos, "eos_token": eos, "pad_token": "<|endoftext|>" if family == "qwen" else None}
    settings = {
        **names,
        "add_prefix_space": False,
        "chat_template": TEMPLATES[family],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", {key: token for key, token in names.items() if token})


def _build(family: str, size: str, vocab_size: int, seed: int) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    vocabulary, merges = _train(seed)
    special = {token: i for token, i in special_ids(family, size).by_token.items() if i < vocab_size}
    taken = set(special.values())
    free = (i for i in range(vocab_size) if i not in taken)
    ids = dict(zip(vocabulary, free, strict=False)) | special
    # No merge leads to a filler, so no text is ever tokenised to one; a random model may still say one.
    ids |= {f"<unused_{i}>": i for i in free}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    _add_byte_level(tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if family == "llama":
        _add_start_token(tokenizer, special["<|begin_of_text|>"])
    return tokenizer


def _train(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """(tokens in the order of their ids, merges) of a byte-level BPE."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    _add_byte_level(tokenizer)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(pair) for pair in model["merges"]]


def _add_byte_level(tokenizer: Any) -> None:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])


def _add_start_token(tokenizer: Any, bos: int) -> None:
    """As Llama's tokenizer does: encoding adds the start token unless told not to (the template has it already)."""
    from tokenizers import processors

    start = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, bos)])


def _corpus(seed: int) -> list[str]:
    """Prompt-like sentences, declarations and random layouts: what this tokenizer will meet."""
    chance = random.Random(seed)
    lines = ["system\nYou are a helpful assistant.", "user\n", "assistant\n"]
    lines += ["Detect walls, doors, windows, boxes. The reference code is as followed: "] * 20
    for name, fields in _FIELDS.items():
        declared = "".join(f"    {field}: {'str' if i == 0 else 'int'}\n" for i, field in enumerate(fields.split()))
        lines += [f"@dataclass\nclass {name}:\n{declared}\n"] * 20
    return lines + [_layout_line(chance, number) for number in range(400)]


def _layout_line(chance: random.Random, number: int) -> str:
    name = chance.choice(list(_FIELDS))
    values = [str(chance.randrange(640)) for _ in _FIELDS[name].split()]
    if name == "Bbox":
        values[0] = chance.choice(_CLASSES)
    elif name != "Wall":
        values[0] = f"wall_{chance.randrange(20)}"
    return f"{name.lower()}_{number % 40}={name}({','.join(values)})\n"


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
