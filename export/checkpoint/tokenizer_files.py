"""The tokenizer's files: the vocabulary, the chat template, the tokens the template names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint.fields import read_json_object
from runtime.errors import CheckpointError

# What the original inference script says to each family. Llama gets no system message.
SYSTEM_MESSAGES = {"qwen": "You are a helpful assistant.", "llama": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """What a prompt is rendered and tokenised with."""

    tokenizer_json: Path
    chat_template: str  # Jinja
    bos_token: str | None
    eos_token: str | None
    system_message: str | None


def read_tokenizer_files(folder: Path, family: str) -> TokenizerFiles:
    """Find the tokenizer of a checkpoint. Raises CheckpointError when a part of it is missing."""
    tokenizer_json = folder / "tokenizer.json"
    if not tokenizer_json.is_file():
        raise CheckpointError(
            f"{folder}: there is no tokenizer.json. Load the tokenizer with transformers (use_fast=True) and "
            f"save_pretrained it here."
        )
    settings = _optional(folder / "special_tokens_map.json") | _optional(folder / "tokenizer_config.json")
    return TokenizerFiles(
        tokenizer_json=tokenizer_json,
        chat_template=_chat_template(folder, settings),
        bos_token=_token(folder, settings, "bos_token"),
        eos_token=_token(folder, settings, "eos_token"),
        system_message=SYSTEM_MESSAGES[family],
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.exists() else {}


def _chat_template(folder: Path, settings: dict[str, Any]) -> str:
    """`chat_template.jinja` if it is there, else the key of tokenizer_config.json: a text, or a list of named ones."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    if isinstance(template, str) and template:
        return template
    raise CheckpointError(
        f"{folder}: no chat template, neither chat_template.jinja nor a default one in tokenizer_config.json. "
        f"Add the template that the model was trained with."
    )


def _token(folder: Path, settings: dict[str, Any], key: str) -> str | None:
    token = settings.get(key)
    token = token.get("content") if isinstance(token, dict) else token
    if token is not None and not isinstance(token, str):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: {key!r} is {token!r:.60}, not a token's text.")
    return token
