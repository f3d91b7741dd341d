"""Byte-level tokens: every character of a token's name stands for one byte."""

from __future__ import annotations


def _byte_of_character() -> dict[str, int]:
    """The alphabet of GPT-2's byte-level BPE (Radford et al. 2019): printable Latin-1 bytes stand for themselves,
    the others take the characters from U+0100 on, in their order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_of_character()


def bytes_of_token(token: str) -> bytes:
    """The bytes a token stands for; an added token with a character outside the alphabet is meant literally."""
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:
        return token.encode("utf-8")
