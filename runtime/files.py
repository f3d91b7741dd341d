"""Small files that came from somewhere else, and those that are kept between runs."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LARGEST = 1 << 26  # bytes; a manifest or a config.json is a thousandth of that
DIGEST = 32  # bytes of a SHA-256


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there takes the place of `path` when the block ends well.

    A reader sees the old file or the new one, never a half. Raises OSError where the folder cannot be written to.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp{path.suffix}"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where compiled kernels and timing caches are kept between runs. Raises OSError where no place is known."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "spatiallm-export"
    try:
        return Path.home() / ".cache" / "spatiallm-export"
    except RuntimeError as error:  # a user without a name, as containers have
        raise FileNotFoundError(errno.ENOENT, "no home is known, set XDG_CACHE_HOME or HOME", "~/.cache") from error


def read_kept(path: Path) -> bytes | None:
    """What `write_kept` left, or None where there is nothing or it was cut short or altered since."""
    try:
        if not stat.S_ISREG((status := path.stat()).st_mode) or status.st_size > LARGEST:
            return None
        digest, data = (text := path.read_bytes())[:DIGEST], text[DIGEST:]
    except OSError:
        return None
    return data if digest == hashlib.sha256(data).digest() else None


def write_kept(path: Path, data: bytes) -> None:
    """Keep data behind its digest. Raises OSError, and leaves nothing half-written then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(hashlib.sha256(data).digest() + data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
