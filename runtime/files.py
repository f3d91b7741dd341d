"""Reading small files that came from somewhere else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LARGEST = 1 << 26  # bytes; a manifest or a config.json is a thousandth of that


def read_small_text(path: Path, largest: int = LARGEST) -> str:
    """UTF-8 text of an ordinary file of at most `largest` bytes.

    Raises OSError for anything else: a pipe would never end, and a device gives more than memory holds.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    if status.st_size > largest:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, expected at most {largest:,}", str(path))
    return path.read_text(encoding="utf-8")


def cache_folder() -> Path:
    """Where compiled kernels and timing caches are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spatiallm-export"
