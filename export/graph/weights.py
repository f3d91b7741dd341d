"""The external weight file: tensors one after another, each at a page boundary, in the layout of the checkpoint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from onnx import TensorProto

PAGE = 4096  # alignment of every tensor, so that one memory map serves all sessions
ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.uint8: TensorProto.UINT8,
}
NOT_STORED = "(not stored)"  # in place of a file name, for weights that a pass has yet to replace


@dataclass(frozen=True, slots=True)
class WeightRecord:
    """Where a tensor lies in the weight file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    bytes: int


class WeightFile:
    """Written once, tensor by tensor, so that no more than one tensor is in memory; hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, WeightRecord] = {}
        self._left_out: dict[str, WeightRecord] = {}
        self._digest = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO | None = path.open("wb")

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append a tensor under a name that no other has."""
        if name in self.records:
            raise ValueError(f"weight {name!r} is written twice")
        self._write(bytes(-self._size % PAGE))
        offset = self._size
        for piece in _pieces(tensor):
            self._write(piece)
        self.records[name] = WeightRecord(tensor.dtype, tuple(tensor.shape), offset, self._size - offset)

    def add_view(self, name: str, of: str, shape: tuple[int, ...]) -> None:
        """The bytes of a tensor that is already there, under another name and shape."""
        record = self.records[of]
        if name in self.records or math.prod(shape) != math.prod(record.shape):
            raise ValueError(f"weight {name!r} {list(shape)} is no view of {of!r} {list(record.shape)}")
        self.records[name] = WeightRecord(record.dtype, shape, record.offset, record.bytes)

    def leave_out(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """Let graphs refer to a tensor that is not stored, until a pass replaces what refers to it."""
        self._left_out[name] = WeightRecord(dtype, shape, 0, 0)

    def close(self) -> None:
        """Finish writing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._size

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def tensor_proto(self, name: str) -> TensorProto:
        """An initializer that points into this file."""
        location = self.path.name if name in self.records else NOT_STORED
        record = self.records[name] if name in self.records else self._left_out[name]
        proto = TensorProto(name=name, data_type=ONNX_TYPES[record.dtype], data_location=TensorProto.EXTERNAL)
        proto.dims.extend(record.shape)
        facts = {"location": location, "offset": record.offset, "length": record.bytes}
        for key, value in facts.items():
            entry = proto.external_data.add()
            entry.key, entry.value = key, str(value)
        return proto

    def _write(self, data: bytes) -> None:
        assert self._file is not None, "the weight file is closed"
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


def _pieces(tensor: torch.Tensor, size: int = 1 << 24) -> Iterator[bytes]:
    """The tensor's bytes, at most `size` at a time."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), size):
        yield flat[start : start + size].tobytes()
