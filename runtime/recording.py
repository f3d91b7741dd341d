"""What entered and left each graph, kept for comparison with another implementation."""

from __future__ import annotations

import contextlib
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runtime.arrays import Array
from runtime.bundle import PAST
from runtime.engines.contract import Backend, Engine, Tensor, TensorSpec
from runtime.errors import SceneError

CACHE = ("past_key.", "past_value.")  # the cache itself is not kept: every row of it was once an output


class Recorder:
    """Collects arrays by name: `encoder.<name>`, `prefill.<name>`, `decode.<step>.<name>`, and whatever is added."""

    def __init__(self, backend: Backend, steps: int) -> None:
        self.arrays: dict[str, Array] = {}
        self._backend = backend
        self._steps = steps

    def wrap(self, engine: Engine, *, by_step: bool = False) -> Engine:
        """The same engine, recorded: each run once, or with `by_step` the first steps numbered."""
        return _RecordedEngine(engine, self, self._steps if by_step else None)

    def add(self, name: str, array: Array) -> None:
        """Keep an array of the host."""
        self.arrays[name] = np.array(array)

    def keep(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a graph's tensors, the cache excepted."""
        for name, tensor in tensors.items():
            if name != PAST and not name.startswith(CACHE):
                self.add(f"{prefix}.{name}", self._backend.download(tensor))

    def save(self, path: Path) -> None:
        """Write an .npz, whole or not at all. Raises SceneError when it cannot be written."""
        save_npz(path, self.arrays, "--save_tensors")


def save_npz(path: Path, arrays: Mapping[str, Array], option: str) -> None:
    """Write arrays, whole or not at all. Raises SceneError, naming the option that named the file."""
    temporary = path.parent / f".tensors-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            _write_npz(file, arrays)
        temporary.replace(path)
    except OSError as error:
        raise SceneError(f"{path}: cannot be written ({error.strerror}). Choose another {option}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_npz(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """As np.savez does, which can refuse to pickle only since NumPy 2."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class _RecordedEngine:
    def __init__(self, engine: Engine, recorder: Recorder, steps: int | None) -> None:
        self._engine, self._recorder, self._steps = engine, recorder, steps
        self._step = 0

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._engine.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return self._engine.outputs

    @property
    def limits(self) -> Mapping[str, int]:
        return self._engine.limits

    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        results = self._engine.run(feeds, outputs)
        if self._steps is None:
            self._recorder.keep(self.name, {**feeds, **results})
        elif self._step < self._steps:
            self._recorder.keep(f"{self.name}.{self._step}", {**feeds, **results})
        self._step += 1
        return results
