"""The checkpoint's tokenizer and chat template, without transformers. The one place that imports `tokenizers`."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from runtime.arrays import Array
from runtime.errors import BundleError
from runtime.manifest import PromptSpec
from runtime.prompt.byte_level import bytes_of_token
from runtime.prompt.chat import ChatTemplate

FILE_NAME = "tokenizer.json"


class Tokenizer:
    """Text to token ids and back, as the checkpoint was trained."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, template: ChatTemplate, spec: PromptSpec) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._spec = spec
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    @classmethod
    def load(cls, folder: Path, spec: PromptSpec) -> Tokenizer:
        """Read `tokenizer.json` and `chat_template.jinja` of a bundle. Raises BundleError."""
        return cls(_read_tokenizer(folder), ChatTemplate.load(folder), spec)

    def render(self, content: str) -> str:
        """The prompt as text: system message where the model has one, the user's content, the answer's opening."""
        messages = [{"role": "user", "content": content}]
        if self._spec.system_message is not None:
            messages.insert(0, {"role": "system", "content": self._spec.system_message})
        return self._template.render(messages, self._spec.bos_token, self._spec.eos_token)

    def encode_prompt(self, content: str) -> Array:
        """Token ids of the rendered prompt, int32 [L]. The template has written all special tokens already."""
        encoding = self._tokenizer.encode(self.render(content), add_special_tokens=False)
        return np.asarray(encoding.ids, dtype=np.int32)

    def decode(self, ids: Sequence[int] | Array, skip_special_tokens: bool = True) -> str:
        """Text of token ids. Bytes that are no UTF-8 become U+FFFD; ids without a token (a vocabulary is often padded
        to a round size) give nothing."""
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token_id: int, skip_special_tokens: bool = True) -> bytes:
        """The bytes a token adds to the text: none for an id without a token, nor for a skipped special token."""
        token = self._tokenizer.id_to_token(int(token_id))
        if token is None or (skip_special_tokens and token_id in self._special_ids):
            return b""
        return bytes_of_token(token)


class TextStream:
    """Text as tokens arrive. All increments together are exactly `Tokenizer.decode` of all ids.

    A token may end in the middle of a character: those bytes wait for the rest. Each token is looked at once.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Text that became complete with this token; may be empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id, self._skip_special_tokens))

    def finish(self) -> str:
        """What was waiting: U+FFFD if the last character never became complete. Then the stream is as new."""
        return self._decoder.decode(b"", final=True)

    def increments(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of `ids` piece by piece, each piece as soon as its last token was drawn; empty ones left out."""
        for token_id in ids:
            if text := self.push(token_id):
                yield text
        if text := self.finish():
            yield text


def _read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    path = folder / FILE_NAME
    if not path.is_file():
        raise BundleError(f"{folder}: there is no {FILE_NAME}, but a bundle has one. Export it again.")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise BundleError(
            f"{path}: not a tokenizer this runtime can read ({error}). Export the bundle again."
        ) from error
    if not isinstance(tokenizer.decoder, tokenizers.decoders.ByteLevel):
        raise BundleError(
            f"{path}: the decoder is {type(tokenizer.decoder).__name__}, but ByteLevel was expected, as Qwen2 and "
            "Llama-3 have it. Export a checkpoint with its own tokenizer."
        )
    # A file may carry the limits of somebody's training run; a prompt is never cut or filled up.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
