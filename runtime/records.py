"""Our own JSON files become frozen dataclasses: unknown or missing keys and wrong types are refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def from_json(kind: Any, value: Any, name: str) -> Any:
    """Build `kind` from parsed JSON. Raises ValueError naming the key that is unknown, missing or of the wrong type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record_from_json(kind, value, name)
    if origin is tuple:
        _expect(isinstance(value, list), name, "a list", value)
        return tuple(from_json(args[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), name, "an object", value)
        return {key: from_json(args[1], item, f"{name}.{key}") for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        return None if value is None else from_json(args[0], value, name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(type(value) is kind, name, kind.__name__, value)
    return value


def _record_from_json(kind: Any, value: Any, name: str) -> Any:
    _expect(isinstance(value, dict), name, "an object", value)
    known = {field.name for field in dataclasses.fields(kind)}
    # What has a default came after the first version: bundles written before may lack it.
    later = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    if wrong := sorted((known ^ value.keys()) - (later - value.keys())):
        raise ValueError(f"missing or unknown keys in {name}: {', '.join(wrong)}")
    hints = typing.get_type_hints(kind)
    return kind(**{key: from_json(hints[key], item, f"{name}.{key}") for key, item in value.items()})


def _expect(holds: bool, name: str, what: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r:.60}, but {what} was expected")
