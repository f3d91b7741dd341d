"""Handles that are numbers, as those of cuda-python are."""

from __future__ import annotations


class Handle:
    """An opaque pointer: int(handle), handle.getPtr()."""

    def __init__(self, init_value: object = 0) -> None:
        self._value = int(init_value)  # type: ignore[call-overload]

    def __int__(self) -> int:
        return self._value

    def __index__(self) -> int:
        return self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._value == other._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._value:#x}>"

    def getPtr(self) -> int:
        return id(self)
