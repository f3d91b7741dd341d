"""Python in a process of its own, where some packages cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise {error}(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_without(
    packages: Sequence[str], code: str, *arguments: str, error: str = "ModuleNotFoundError"
) -> subprocess.CompletedProcess[str]:
    """Run `code` in the project's root with `packages` unimportable and `sys.argv[1:]` = arguments."""
    command = [sys.executable, "-c", _BLOCK.format(packages=tuple(packages), error=error) + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
