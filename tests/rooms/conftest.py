"""A few dozen scans that the tests share."""

from __future__ import annotations

import pytest

from demo.rooms import SPLITS, Scan, make_scan


@pytest.fixture(scope="session")
def scans() -> list[Scan]:
    """Rooms of all shapes, from the split that no model learns from."""
    return [make_scan(seed) for seed in SPLITS["test"][:40]]
