"""A byte-level tokenizer trained on the prompt, with the point and chat tokens of each family, and templates that
render as the published checkpoints do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from runtime.manifest import PromptSpec
from runtime.prompt import DETECT_TYPES, user_content

POINT_TOKENS = ["<|point_start|>", "<|point_end|>", "<|point_pad|>"]

QWEN_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


@dataclass(frozen=True)
class Family:
    """What a family's bundle holds for its prompt."""

    template: str
    chat_tokens: tuple[str, ...]
    system_message: str | None
    bos_token: str | None
    eos_token: str
    rendered: str  # what the prompt must look like, with {content} in it


FAMILIES = {
    "qwen": Family(
        template=QWEN_TEMPLATE,
        chat_tokens=("<|im_start|>", "<|im_end|>"),
        system_message="You are a helpful assistant.",
        bos_token=None,
        eos_token="<|im_end|>",
        rendered=(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
        ),
    ),
    "llama": Family(
        template=LLAMA_TEMPLATE,
        chat_tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        system_message=None,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        rendered=(
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
    ),
}


@dataclass(frozen=True)
class PromptFiles:
    """The folder of a bundle, as far as prompts go."""

    name: str
    folder: Path
    spec: PromptSpec


def train_tokenizer(chat_tokens: tuple[str, ...]) -> tokenizers.Tokenizer:
    """All 256 bytes, merges learnt from the prompts, the special tokens at the end, and two odd added tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    text = [user_content(detect_type).split("<|point_end|>")[1] for detect_type in DETECT_TYPES]
    tokenizer.train_from_iterator([*text, "é è 你好 😀😁"], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*POINT_TOKENS, *chat_tokens)])
    tokenizer.add_tokens([AddedToken("two words é", special=False), AddedToken("Ġé", special=False)])
    return tokenizer


def write_family(folder: Path, name: str) -> PromptSpec:
    """Write `tokenizer.json` and `chat_template.jinja` of a family; the spec that belongs to them."""
    family = FAMILIES[name]
    tokenizer = train_tokenizer(family.chat_tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(family.template, encoding="utf-8")
    start, end, point = (tokenizer.token_to_id(token) for token in POINT_TOKENS)
    return PromptSpec(
        system_message=family.system_message,
        point_start_token_id=start,
        point_end_token_id=end,
        point_token_id=point,
        bos_token=family.bos_token,
        eos_token=family.eos_token,
    )
