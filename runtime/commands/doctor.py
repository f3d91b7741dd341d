"""`--doctor`: what is installed, what is missing, and what to install for which back end. Standard library only."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from plugins.library import LibraryError, open_library

RUNTIME = ("numpy", "scipy", "plyfile", "tokenizers", "jinja2", "tqdm")
EXPORT = ("torch", "onnx", "safetensors", "huggingface_hub")
ENGINES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "tensorrt": ("tensorrt", "cuda-bindings")}
EXTRAS = {"shapely": ("scores", "eval"), "matplotlib": ("--plot", "plot"), "rerun-sdk": ("--rerun", "rerun")}
LIBRARIES = ("cuda", "cudart", "cublas", "cublasLt", "cudnn")
JETSON = Path("/etc/nv_tegra_release")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the doctor saw."""

    python: str
    platform: str
    cores: int
    packages: dict[str, str | None]  # name -> version, None where it is missing
    gpus: list[str]  # name, driver, memory as nvidia-smi tells
    cuda_libraries: dict[str, str | None]
    advice: list[str]


def run_doctor(*, as_json: bool) -> int:
    """Print the findings. Returns 0: a missing package is a finding, no failure."""
    findings = examine()
    if as_json:
        print(json.dumps(asdict(findings)))
        return 0
    print(f"Python {findings.python}, {findings.platform}, {findings.cores} cores")
    for name, version in (findings.packages | findings.cuda_libraries).items():
        print(f"  {name:<16} {version or 'missing'}")
    print("GPU: " + ("; ".join(findings.gpus) or "none that nvidia-smi shows"))
    for sentence in findings.advice:
        print(f"- {sentence}")
    return 0


def examine() -> Findings:
    """Look around without importing anything heavy."""
    engines = [package for group in ENGINES.values() for package in group]
    names = [*RUNTIME, *engines, *EXPORT, "transformers", *EXTRAS]
    packages = {name: _version(name) for name in names}
    gpus = _gpus()
    return Findings(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        packages=packages,
        gpus=gpus,
        cuda_libraries={f"lib{name}": ctypes.util.find_library(name) for name in LIBRARIES},
        advice=_advice(packages, gpus),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def _advice(packages: dict[str, str | None], gpus: list[str]) -> list[str]:
    """A sentence for each thing that can or cannot be done here."""

    def missing(names: tuple[str, ...]) -> str:
        return ", ".join(name for name in names if packages[name] is None)

    sentences = []
    if lacking := missing(RUNTIME):
        sentences.append(f"The runtime lacks {lacking}: pip install .")
    if any(packages[name] for name in ENGINES["onnxruntime"]):
        sentences.append("Bundles run with --backend onnxruntime.")
    else:
        sentences.append("For --backend onnxruntime: pip install '.[onnxruntime]'")
    if lacking := missing(EXPORT):
        sentences.append(f"export_model.py lacks {lacking}: pip install '.[export]'")
    else:
        sentences.append("Checkpoints can be exported.")
    for package, (purpose, extra) in EXTRAS.items():
        if packages[package] is None:
            sentences.append(f"For {purpose}: pip install '.[{extra}]'")
    return [*sentences, *_gpu_advice(packages, gpus)]


def _gpu_advice(packages: dict[str, str | None], gpus: list[str]) -> list[str]:
    """What TensorRT can do here. On a Jetson nvidia-smi may show nothing, and TensorRT comes with JetPack."""
    jetson = JETSON.exists()
    if not (gpus or jetson):
        return []
    lacking = [name for name in ENGINES["tensorrt"] if packages[name] is None]
    if not lacking:
        build = "Engines for this GPU: python -m export.build --bundle BUNDLE; then run with --backend tensorrt."
        return [build, _kernels(packages["tensorrt"] or "")]
    if jetson:
        return [
            f"For --backend tensorrt on this Jetson {' and '.join(lacking)} is missing: use JetPack's own TensorRT."
        ]
    return [f"For --backend tensorrt {' and '.join(lacking)} is missing: pip install '.[tensorrt]'"]


def _kernels(tensorrt: str) -> str:
    """Whether our own kernels can go into these engines."""
    try:
        library = open_library(tensorrt)
    except LibraryError as error:
        return f"Engines without our own kernels: {error}"
    return (
        f"Our own kernels for {', '.join(library.architectures)}: {library.path}, version {library.version}; "
        "export.build takes them by default where they have proven better, else with --plugins."
    )
