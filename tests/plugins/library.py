"""A library that tells of itself what ours tells, and has nothing else in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from plugins.build import HERE
from plugins.decode_step.sizes import Sizes
from plugins.library import VERSION

TEXT = """
#include <cstddef>
typedef int cudaError_t;
typedef struct CUstream_st *cudaStream_t;
{launch}
extern "C" int spatiallm_plugins_version() {{ return {version}; }}
extern "C" int spatiallm_plugins_tensorrt() {{ return {major}; }}
extern "C" int spatiallm_plugins_decode_step(int index, spatiallm::DecodeStepSizes *sizes) {{
  if (index == 0) *sizes = {{{sizes}}};
  return index == 0;
}}
"""


def make_library(path: Path, sizes: Sizes, tensorrt: str, version: int = VERSION) -> Path:
    """Compile it with the host's compiler, over the true `launch.h`."""
    launch = (HERE / "decode_step" / "launch.h").read_text()
    launch = launch.replace("#pragma once\n", "").replace("#include <cuda_runtime_api.h>\n", "")
    order = ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocabulary", "qkv_bias", "bf16")
    numbers = [*(int(getattr(sizes, name)) for name in order), f"{sizes.epsilon!r}f"]
    source = path.with_suffix(".cpp")
    major = tensorrt.partition(".")[0]
    text = TEXT.format(launch=launch, version=version, major=major, sizes=", ".join(map(str, numbers)))
    source.write_text(text)
    subprocess.run(["g++", "-std=c++17", "-fPIC", "-shared", str(source), "-o", str(path)], check=True)
    return path
