"""Values of someone else's JSON file, each checked as it is picked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import CheckpointError
from runtime.files import read_small_text


def read_json_object(path: Path) -> dict[str, Any]:
    """The object a JSON file holds. Raises CheckpointError when it is missing, broken, or not an object."""
    try:
        facts = json.loads(read_small_text(path))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent}: there is no {path.name}. Give the directory of a whole Hugging Face checkpoint."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable as JSON ({error}). Download or copy the checkpoint again."
        ) from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: holds a {type(facts).__name__}, but a JSON object was expected.")
    return facts


class Fields:
    """The keys of one JSON object; every getter raises CheckpointError with the file and the key in its sentence."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where  # the file, and the key of the object when it is not the outermost

    def wrong(self, key: str, expected: str) -> CheckpointError:
        found = f"is {self.values[key]!r:.80}" if key in self.values else "is missing"
        return CheckpointError(f"{self.where}: {key!r} {found}, but {expected} was expected. Correct the checkpoint.")

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands; `default` where the key is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def one_of(self, *spellings: str) -> tuple[bool, Any]:
        """(found, value) of a key that has several spellings; two that disagree are an error."""
        found = {key: self.values[key] for key in spellings if key in self.values}
        if not found:
            return False, None
        values = list(found.values())
        if any(value != values[0] for value in values):
            raise CheckpointError(f"{self.where}: the keys {found} contradict each other. Keep one of them.")
        return True, values[0]

    def inner(self, key: str) -> Fields:
        """The object under a key."""
        if not isinstance(self.values.get(key), dict):
            raise self.wrong(key, "an object")
        return Fields(self.values[key], f"{self.where}, {key}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def count(self, key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        """An integer in 1 .. most."""
        value = _as_int(self.get(key, default))
        if value is None or not 0 < value <= most:
            raise self.wrong(key, f"an integer in 1 .. {most}")
        return value

    def counts(self, key: str, length: int | None = None, most: int = 2**31 - 1) -> tuple[int, ...]:
        """A list of integers in 1 .. most, of a given length if one is given."""
        items = self.values.get(key)
        values = [_as_int(item) for item in items] if isinstance(items, list) else []
        counts = tuple(value for value in values if value is not None and 0 < value <= most)
        if not counts or len(counts) != len(values) or length not in (None, len(counts)):
            raise self.wrong(key, f"a list of {f'{length} ' if length else ''}integers in 1 .. {most}")
        return counts

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.wrong(key, "a number above 0")
        return float(value)

    def token_id(self, key: str, vocab_size: int) -> int:
        value = _as_int(self.values.get(key))
        if value is None or not 0 <= value < vocab_size:
            raise self.wrong(key, f"a token id in 0 .. {vocab_size - 1}")
        return value

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """One id or a list of ids; () where the key is absent or null."""
        value = self.get(key, [])
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        ids = [_as_int(item) for item in items]
        if any(item is None or not 0 <= item < vocab_size for item in ids):
            raise self.wrong(key, f"one token id or a list of them, each in 0 .. {vocab_size - 1}")
        return tuple(item for item in ids if item is not None)


def _as_int(value: Any) -> int | None:
    """4 and 4.0 are integers; true, 4.5 and "4" are not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
