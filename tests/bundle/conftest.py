"""A tiny bundle that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.exported import Export


@pytest.fixture
def folder(exported: Export, tmp_path: Path) -> Path:
    """A copy of an exported bundle with the 3D encoding, so that no part of the manifest is empty."""
    return Path(shutil.copytree(exported("llama", "3D_RoPE", "3D_with_1D").bundle.folder, tmp_path / "bundle"))
