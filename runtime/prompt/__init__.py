"""From a wish to token ids with room for the cloud, and from token ids back to text."""

from runtime.prompt.content import CATEGORIES, DETECT_TYPES, user_content
from runtime.prompt.merge import MergedPrompt, PromptBatch, batch_prompts, merge_prompt
from runtime.prompt.tokenizer import TextStream, Tokenizer

__all__ = [
    "CATEGORIES",
    "DETECT_TYPES",
    "MergedPrompt",
    "PromptBatch",
    "TextStream",
    "Tokenizer",
    "batch_prompts",
    "merge_prompt",
    "user_content",
]
