"""Text that appears while tokens arrive."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from runtime.prompt import TextStream, Tokenizer
from runtime.prompt.byte_level import bytes_of_token
from tests.prompt.families import write_family


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder, write_family(folder, "qwen"))


@pytest.fixture(scope="module")
def library(folder: Path, tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, straight from the library: it names tokens."""
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_the_byte_alphabet_is_the_library_s(library: tokenizers.Tokenizer) -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert sorted(bytes_of_token(character) for character in alphabet) == [bytes([byte]) for byte in range(256)]
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("\x00 ~é你😀\xad")
    assert bytes_of_token(pieces[0][0]) == "\x00 ~é你😀\xad".encode()


def byte_ids(library: tokenizers.Tokenizer, text: str) -> list[int]:
    """Ids of the tokens of single bytes, so that every character is split over tokens."""
    of_byte = {bytes_of_token(character): character for character in pre_tokenizers.ByteLevel.alphabet()}
    return [library.token_to_id(of_byte[bytes([byte])]) for byte in text.encode()]


def test_a_character_split_over_tokens_waits_for_its_last_byte(
    tokenizer: Tokenizer, library: tokenizers.Tokenizer
) -> None:
    stream = TextStream(tokenizer)
    got = [stream.push(token_id) for token_id in byte_ids(library, "aé你😀b")]
    assert got == ["a", "", "é", "", "", "你", "", "", "", "😀", "b"]
    assert stream.finish() == ""


def test_a_character_that_never_ends_becomes_one_replacement(
    tokenizer: Tokenizer, library: tokenizers.Tokenizer
) -> None:
    ids = byte_ids(library, "a😀")[:-1]
    stream = TextStream(tokenizer)
    assert [stream.push(token_id) for token_id in ids] == ["a", "", "", ""]
    assert stream.finish() == "�"
    assert list(TextStream(tokenizer).increments(ids)) == ["a", "�"]
    assert tokenizer.decode(ids) == "a�"


def test_a_broken_character_does_not_hold_back_what_follows(
    tokenizer: Tokenizer, library: tokenizers.Tokenizer
) -> None:
    ids = byte_ids(library, "你")[:2] + byte_ids(library, "ab")
    assert [*map(TextStream(tokenizer).push, ids)] == ["", "", "�a", "b"]


def test_special_tokens_show_when_asked(tokenizer: Tokenizer, library: tokenizers.Tokenizer) -> None:
    special = library.token_to_id("<|im_end|>")
    assert TextStream(tokenizer).push(special) == ""
    assert TextStream(tokenizer, skip_special_tokens=False).push(special) == "<|im_end|>"


def test_an_id_without_a_token_adds_nothing(tokenizer: Tokenizer) -> None:
    assert list(TextStream(tokenizer).increments([10**6])) == []
    assert tokenizer.decode([10**6]) == ""


@given(data=st.data(), skip=st.booleans())
def test_increments_together_are_the_decoded_text(
    tokenizer: Tokenizer, library: tokenizers.Tokenizer, data: st.DataObject, skip: bool
) -> None:
    """Any ids: broken bytes, special and odd added tokens, and ids beyond the vocabulary."""
    last = library.get_vocab_size() + 3
    ids = data.draw(st.lists(st.one_of(st.integers(0, last), st.integers(last - 12, last)), max_size=60))
    increments = list(TextStream(tokenizer, skip).increments(ids))
    assert "".join(increments) == tokenizer.decode(ids, skip)
    assert all(increments)


@given(st.text(max_size=40))
def test_valid_text_never_shows_a_replacement(tokenizer: Tokenizer, library: tokenizers.Tokenizer, text: str) -> None:
    ids = byte_ids(library, text)
    stream = TextStream(tokenizer)
    assert "".join(map(stream.push, ids)) == text
    assert stream.finish() == ""


def test_the_time_of_a_token_does_not_grow_with_the_text(tokenizer: Tokenizer, library: tokenizers.Tokenizer) -> None:
    """Also not for bytes that never form a character. Decoding anew at each of 20,000 tokens takes minutes."""
    half = byte_ids(library, "你")[1:2]  # a continuation byte without a beginning
    began = time.perf_counter()
    text = "".join(TextStream(tokenizer).increments(half * 20_000))
    assert text == "�" * 20_000
    assert time.perf_counter() - began < 5.0
