"""One text for every compiler, and what it is compiled for."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu.decode_step import MODELS, main, parsed
from plugins.decode_step.arguments import StepArguments
from plugins.decode_step.sizes import Sizes, Tuning, source
from plugins.source import inlined, with_constants
from tests.plugins.nvrtc import errors_of_nvrtc, find_nvrtc
from tests.plugins.small import LLAMA, QWEN, TUNINGS


def test_each_include_is_put_in_place_once(tmp_path: Path) -> None:
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "b.cuh"\nA\n')
    (tmp_path / "b.cuh").write_text("#pragma once\nB\n")
    (tmp_path / "main.cuh").write_text('#include "a.cuh"\n#include "b.cuh"\n#include <system>\nMAIN\n')
    assert inlined(tmp_path / "main.cuh").split() == ["B", "A", "#include", "<system>", "MAIN"]


def test_constants_are_literals() -> None:
    text = with_constants("BODY", {"COUNT": 3, "EPSILON": 1e-06})
    assert text == "#define COUNT 3\n#define EPSILON 1e-06f\nBODY"


def test_the_whole_kernel_needs_no_other_file() -> None:
    text = source(MODELS["qwen"], Tuning())
    assert not re.search(r'#include "', text)
    for name in ("HIDDEN 896", "LAYERS 24", "EPSILON 1e-06f", "WARPS 15", "HALF_IS_BF16 0"):
        assert f"#define {name}\n" in text


def test_bytes_that_a_step_reads() -> None:
    assert [round(MODELS[model].weight_bytes / 1e9, 2) for model in ("qwen", "llama")] == [0.99, 2.47]


def test_arguments_are_those_of_the_kernels_struct() -> None:
    text = re.search(r"struct StepArguments \{(.*?)\n\};", source(MODELS["qwen"], Tuning()), re.DOTALL)
    assert text is not None
    lines = [line.split("//")[0].strip() for line in text[1].splitlines()]
    names = [re.sub(r"^.*[ *]", "", name.strip()) for line in lines for name in line.rstrip(";").split(",") if name]
    assert names == [name for name, *_ in StepArguments._fields_]


def test_a_variant_is_a_model_with_other_numbers() -> None:
    model, sizes, tuning = parsed("qwen:warps=11,flight=32768")
    assert (model, sizes, tuning) == ("qwen", MODELS["qwen"], Tuning(warps=11, flight=32768))


@pytest.mark.skipif(find_nvrtc() is None, reason="NVRTC is needed: pip install nvidia-cuda-nvrtc")
@pytest.mark.parametrize(("sizes", "tuning"), [(QWEN, "published"), (LLAMA, "checked")], ids=["qwen", "llama"])
@pytest.mark.parametrize("pure", [False, True], ids=["loop", "pure"])
def test_nvrtc_takes_it(sizes: Sizes, tuning: str, pure: bool) -> None:
    """It is stricter than nvcc: there is no host, so no function may be the host's."""
    library = find_nvrtc()
    assert library is not None
    assert errors_of_nvrtc(library, source(sizes, TUNINGS[tuning], pure=pure), "sm_90") == ""


@pytest.mark.skipif(find_nvrtc() is None, reason="NVRTC is needed: pip install nvidia-cuda-nvrtc")
def test_nvrtc_refuses_a_function_of_the_host() -> None:
    library = find_nvrtc()
    assert library is not None
    assert "execution space" in errors_of_nvrtc(library, "constexpr int one() { return 1; }", "sm_90")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is needed to compile for a GPU")
@pytest.mark.parametrize("bf16", [False, True], ids=["fp16", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_it_compiles_for_a_gpu_and_fits_into_a_block(model: str, bf16: bool, tmp_path: Path) -> None:
    sizes: Sizes = dataclasses.replace(MODELS[model], bf16=bf16)
    file = tmp_path / "kernel.cu"
    file.write_text(source(sizes, Tuning()))
    done = subprocess.run(
        ["nvcc", "-std=c++17", "-arch=sm_90", "--cubin", "-o", str(tmp_path / "kernel.cubin"), str(file)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is needed to compile for a GPU")
def test_the_driver_tries_every_variant_and_says_why_one_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine without a GPU both fail, each in a process of its own; the log has a line of each."""
    variants = ["--variant", "qwen:tiles=1", "--variant", "qwen:ring=400000"]
    monkeypatch.setattr("sys.argv", ["decode_step", "--output", str(tmp_path), *variants, "--limit", "60"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    main()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("variant") for line in lines] == [None, "probes", "qwen:tiles=1", "qwen:ring=400000"]
    assert lines[1]["failed"] == lines[2]["failed"] == 1
    assert "more than a block can have" in lines[3]["not_compiled"]
    result = json.loads((tmp_path / "decode_step.json").read_text())
    assert list(result["contexts"]["776"]) == ["qwen:tiles=1", "qwen:ring=400000"]
    assert result["probes"]["failed"] == 1
