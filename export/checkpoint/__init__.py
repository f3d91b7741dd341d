"""Checkpoints as Hugging Face stores them: opened, checked, and read tensor by tensor."""

from export.checkpoint.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.choices import UNSET, Unset
from export.checkpoint.config import ModelConfig
from export.checkpoint.expected import expected_tensors
from export.checkpoint.tokenizer_files import TokenizerFiles

__all__ = [
    "UNSET",
    "Checkpoint",
    "ModelConfig",
    "TokenizerFiles",
    "Unset",
    "expected_tensors",
    "open_checkpoint",
]
