"""Weight files on the device, one copy each for all engines that read them (plugins: `runtime.bundle.WEIGHTS`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.bundle import Bundle, file_digest
from runtime.engines.cuda.library import OutOfDeviceMemory
from runtime.engines.cuda.memory import CudaMemory, DeviceTensor, item_bytes
from runtime.errors import BundleError

PIECE = 1 << 25  # values that go to the device at a time


class DeviceWeights:
    """What stands on the device, by the digest of the file. Its address stays until all is let go of."""

    def __init__(self, memory: CudaMemory, *, verify: bool) -> None:
        self._memory, self._verify = memory, verify
        self._tensors: dict[str, DeviceTensor] = {}

    def of(self, bundle: Bundle, graph: str, dtype: str, values: int) -> DeviceTensor:
        """The weight file [values] of a graph. Raises BundleError where it has another size or digest, EngineError."""
        name = bundle.manifest.weights[graph]
        path, digest = bundle.folder / name, bundle.manifest.files[name].sha256
        if path.stat().st_size != values * item_bytes(dtype):
            raise BundleError(
                f"{path}: has {path.stat().st_size:,} bytes, but the engine of {graph} was built for "
                f"{values * item_bytes(dtype):,}. Copy or export the bundle again."
            )
        if digest not in self._tensors:
            if self._verify and file_digest(path) != digest:
                raise BundleError(
                    f"{path}: its SHA-256 is not the manifest's; it was altered. Copy or export the bundle again."
                )
            self._tensors[digest] = self._uploaded(path, dtype, values)
        return self._tensors[digest]

    def close(self) -> None:
        """Let go of all; engines that still run keep what they use."""
        self._tensors.clear()

    def _uploaded(self, path: Path, dtype: str, values: int) -> DeviceTensor:
        """Piece by piece from the mapped file: the host need not hold it as a whole."""
        try:
            tensor = self._memory.empty((values,), dtype)
        except OutOfDeviceMemory as error:
            raise OutOfDeviceMemory(
                f"{path}: the GPU has not the memory to load it ({values * item_bytes(dtype) / 1e9:.2f} GB). "
                f"End other programs that use the GPU."
            ) from error
        file = np.memmap(path, np.dtype(f"u{item_bytes(dtype)}"), mode="r")
        for start in range(0, values, PIECE):
            self._memory.write(file[start : start + PIECE], tensor[start : start + PIECE])
        self._memory.synchronize()  # the file may go
        return tensor
