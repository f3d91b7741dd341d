"""What the library's operators are called with through ctypes has the layout that their headers give it."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu.operators import DecodeStepTensors
from plugins.build import HERE
from plugins.language_model.arguments import LanguageModelTensors, ModelSizes, ModelWeights

HEADERS = {
    ModelSizes: "common/model.h",
    ModelWeights: "common/model.h",
    LanguageModelTensors: "language_model/launch.h",
    DecodeStepTensors: "decode_step/launch.h",
}
CUDA = "typedef int cudaError_t;\ntypedef struct CUstream_st *cudaStream_t;\n"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is needed to ask for the layout")


@pytest.mark.parametrize("structure", HEADERS, ids=lambda structure: structure.__name__)
def test_layout(structure: type[ctypes.Structure], tmp_path: Path) -> None:
    """Each field where the compiler puts it, and no field more."""
    (tmp_path / "cuda_runtime_api.h").write_text(f"#pragma once\n#include <stddef.h>\n{CUDA}")
    header = HERE / HEADERS[structure]
    names = [name for name, *_ in structure._fields_]
    kind = f"spatiallm::{structure.__name__}"
    asked = ", ".join([*(f"offsetof({kind}, {name})" for name in names), f"sizeof({kind})"])
    source, program = tmp_path / "layout.cpp", tmp_path / "layout"
    text = f'#include <cstddef>\n#include <cstdio>\n#include <initializer_list>\n#include "{header}"\n'
    source.write_text(f'{text}int main() {{ for (size_t at : {{{asked}}}) std::printf("%zu ", at); }}\n')
    subprocess.run(["g++", "-std=c++17", f"-I{tmp_path}", str(source), "-o", str(program)], check=True)
    told = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert [*map(int, told.split())] == [*(getattr(structure, name).offset for name in names), ctypes.sizeof(structure)]
    assert len(names) == declared(header.read_text(), structure.__name__)


def declared(text: str, name: str) -> int:
    """How many fields a struct has: two of one size may hide a third."""
    found = re.search(rf"struct {name} \{{(.*?)\n\}};", text, re.S)
    assert found is not None
    lines = [line.partition("//")[0] for line in found[1].splitlines()]
    return sum(statement.count(",") + 1 for statement in " ".join(lines).split(";") if statement.strip())
