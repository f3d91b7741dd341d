"""The bytes of a plan: a header with a digest, facts as JSON, and the graph with its weights."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from typing import Any

MAGIC = b"ftrt"


def pack(facts: dict[str, Any], files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in {"facts.json": json.dumps(facts).encode(), **files}.items():
            target.writestr(name, content)
    body = archive.getvalue()
    return MAGIC + struct.pack("<Q", len(body)) + hashlib.sha256(body).digest() + body


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Facts and files; None where the bytes are no plan, or not a whole one."""
    body = data[44:]
    if data[:4] != MAGIC or len(data) < 44 or struct.unpack("<Q", data[4:12])[0] != len(body):
        return None
    if hashlib.sha256(body).digest() != data[12:44]:
        return None
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(files.pop("facts.json")), files
