"""The safetensors files of a checkpoint: what they hold, and each tensor when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from export.checkpoint.fields import read_json_object
from runtime.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
ROWS_AT_ONCE = 4096  # of an embedding compared piece by piece; the whole one can be half a gigabyte


class TensorFiles:
    """Tensors by name, read lazily from one file or from many. Every mistake is a CheckpointError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: dict[str, Any] = {}
        self._file_of = self._locate()

    def names(self) -> list[str]:
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        with self._reading(name) as handle:
            return tuple(handle.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The storage type, in the words of safetensors: F32, BF16, F16 and others."""
        with self._reading(name) as handle:
            return str(handle.get_slice(name).get_dtype())

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor as it is stored, float32, bfloat16 or float16."""
        if self.dtype(name) not in FLOATS:
            raise CheckpointError(
                f"{self._file_of[name]}: {name!r} is stored as {self.dtype(name)}, but F32, BF16 or F16 was expected. "
                f"Give a checkpoint that is not quantised."
            )
        with self._reading(name) as handle:
            tensor: torch.Tensor = handle.get_tensor(name)
            return tensor

    def equal(self, name: str, other: str) -> bool:
        """Whether two matrices hold the same values, compared a few rows at a time."""
        shape = self.shape(name)
        if shape != self.shape(other):
            return False
        with self._reading(name) as a, self._reading(other) as b:
            left, right = a.get_slice(name), b.get_slice(other)
            steps = range(0, shape[0], ROWS_AT_ONCE)
            return all(torch.equal(left[i : i + ROWS_AT_ONCE], right[i : i + ROWS_AT_ONCE]) for i in steps)

    def _locate(self) -> dict[str, Path]:
        single, index = self.folder / SINGLE, self.folder / INDEX
        if index.exists() and not single.exists():
            return self._from_index(index)
        if single.exists():
            return dict.fromkeys(self._open(single).keys(), single)
        if any(self.folder.glob("pytorch_model*.bin")):
            raise CheckpointError(
                f"{self.folder}: the weights are pytorch_model.bin, which can run code when opened. Convert them: "
                f"load the model with transformers and save_pretrained(..., safe_serialization=True)."
            )
        raise CheckpointError(
            f"{self.folder}: there is neither {SINGLE} nor {INDEX}. Give the directory of a whole checkpoint."
        )

    def _from_index(self, index: Path) -> dict[str, Path]:
        weight_map = read_json_object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: 'weight_map' is missing or empty. Download the checkpoint again.")
        held = {}
        for shard in dict.fromkeys(weight_map.values()):
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise CheckpointError(f"{index}: {shard!r} is not the plain name of a file beside the index.")
            held[shard] = set(self._open(self.folder / shard).keys())
        for name, shard in weight_map.items():
            if name not in held[shard]:
                raise CheckpointError(f"{index}: says that {name!r} is in {shard}, but it is not. Download both again.")
        return {name: self.folder / shard for name, shard in weight_map.items()}

    def _open(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if path.name not in self._handles:
            try:
                self._handles[path.name] = safe_open(path, framework="pt")
            except FileNotFoundError as error:
                raise CheckpointError(
                    f"{path}: this file of weights is missing. Download or copy the checkpoint again."
                ) from error
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{path}: not a whole safetensors file ({error}). Download or copy it again."
                ) from error
        return self._handles[path.name]

    @contextmanager
    def _reading(self, name: str) -> Iterator[Any]:
        from safetensors import SafetensorError

        if name not in self._file_of:
            raise CheckpointError(f"{self.folder}: there is no tensor {name!r} in this checkpoint.")
        path = self._file_of[name]
        try:
            yield self._open(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: {name!r} cannot be read ({error}). Download the file again.") from error
