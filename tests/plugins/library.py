"""A library that tells of itself what ours tells, and has nothing else in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from plugins.build import HERE
from plugins.decode_step.sizes import Sizes
from plugins.library import VERSION

TEXT = """
#include "common/model.h"
extern "C" int spatiallm_plugins_version() {{ return {version}; }}
extern "C" int spatiallm_plugins_tensorrt() {{ return {major}; }}
extern "C" char const *spatiallm_plugins_architectures() {{ return "{architectures}"; }}
extern "C" int spatiallm_plugins_decode_step(int index, spatiallm::ModelSizes *sizes) {{
  if (index == 0) *sizes = {{{sizes}}};
  return index == 0;
}}
"""


def make_library(path: Path, sizes: Sizes, tensorrt: str, version: int = VERSION, architectures: str = "sm_90") -> Path:
    """Compile it with the host's compiler, over the true `model.h`."""
    order = ("hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocabulary", "qkv_bias", "bf16")
    numbers = ", ".join([*(str(int(getattr(sizes, name))) for name in order), f"{sizes.epsilon!r}f"])
    source = path.with_suffix(".cpp")
    major = tensorrt.partition(".")[0]
    source.write_text(TEXT.format(version=version, major=major, architectures=architectures, sizes=numbers))
    options = ["-std=c++17", "-fPIC", "-shared", f"-I{HERE}"]
    subprocess.run(["g++", *options, str(source), "-o", str(path)], check=True)
    return path
