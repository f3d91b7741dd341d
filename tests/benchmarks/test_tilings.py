"""The program that measures tilings: its own head says how it is compiled, and that works."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "benchmarks" / "gpu" / "tilings.cu"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is needed")
def test_the_command_in_its_head_compiles_it(tmp_path: Path) -> None:
    program = tmp_path / "tilings"
    command = ["nvcc", "-std=c++17", "-O0", *_told()[3:]]
    command[command.index("tilings")] = str(program)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert program.is_file()


def _told() -> list[str]:
    """The command, from its first word to the end of the last line that goes on."""
    lines = [line.removeprefix("//").strip() for line in SOURCE.read_text().splitlines() if line.startswith("//")]
    first = next(number for number, line in enumerate(lines) if line.startswith("nvcc "))
    last = next(number for number, line in enumerate(lines[first:], first) if not line.endswith("\\"))
    told = shlex.split(" ".join(line.removesuffix("\\") for line in lines[first : last + 1]))
    assert told[:3] == ["nvcc", "-std=c++17", "-O3"]
    return told
