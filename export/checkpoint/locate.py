"""From what the user typed to a directory with the checkpoint's files."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.errors import CheckpointError

PATTERNS = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
]


def locate(model: str, revision: str | None) -> Path:
    """The directory `model`, or the local copy of the hub's `owner/name`. Raises CheckpointError.

    HF_HUB_OFFLINE and HF_HOME are huggingface_hub's own and are honoured by it.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{model}: a file, but the directory of a checkpoint was expected. Give its folder.")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model):
        raise CheckpointError(f"{model}: no such directory, and not a hub id (owner/name) either. Give one of the two.")
    return _download(model, revision)


def _download(model: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{model}: no such directory, and a hub id needs huggingface_hub. Install it: pip install '.[export]'"
        ) from error
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=PATTERNS))
    except Exception as error:  # the hub's client lets through what its network and its cache raise
        which = model if revision is None else f"{model} (revision {revision})"
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{which}: not a directory here, and the hub did not give it ({type(error).__name__}: {reason:.200}). "
            f"Check the id and the network, log in if the model is gated, or download it and give the directory; "
            f"with HF_HUB_OFFLINE=1 it must already be in the local cache."
        ) from error
