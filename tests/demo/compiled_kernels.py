"""The convolution's kernels compiled for sm_90 in bf16, and what they take: python -m tests.demo.compiled_kernels

Prints JSON by kernel and width: registers a thread, bytes of spilled registers and of shared memory, and whether
tensor cores multiply and reads overlap products. Needs triton without TRITON_INTERPRET, and no GPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from demo.training import convolution_kernels as kernels
from demo.training.config import POINTS

DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def facts(kernel: Any, plan: kernels.Plan, **constants: Any) -> dict[str, Any]:
    compiled = _compile(kernel, plan, constants)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([DUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    code = compiled.asm["ptx"]
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "spilled": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "shared": compiled.metadata.shared,
        "tensor_cores": "wgmma" in code or "mma.sync" in code,
        "pipelined": "cp.async" in code,
    }


def _compile(kernel: Any, plan: kernels.Plan, constants: dict[str, Any]) -> Any:
    types = {"neighbours": "*i32", "bias": "*fp32", "partial": "*fp32", "rows": "i32"}
    signature = {name: "constexpr" if name in constants else types.get(name, "*bf16") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(signature) if signature[name].startswith("*")
    }
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values, aligned)
    options = {"num_warps": plan.warps, "num_stages": plan.stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def main() -> None:
    results = {}
    for width in POINTS["enc_channels"]:
        full = kernels.filled_up(width)
        sizes = {"IN": width, "OUT": width, "INNER": full, "OUTER": full, "PRECISION": "tf32"}
        forward = kernels.plan_of(kernels.FORWARD, full, torch.bfloat16)
        results[f"gather_matmul {width}"] = facts(kernels._gather_matmul, forward, BLOCK=forward.block, **sizes)
        weight = kernels.plan_of(kernels.WEIGHT, full, torch.bfloat16)
        constants = {"BLOCK": weight.block, "STEPS": kernels.SPLIT_STEPS, **sizes}
        results[f"weight_gradient {width}"] = facts(kernels._weight_gradient, weight, **constants)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
