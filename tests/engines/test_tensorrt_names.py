"""Every name of TensorRT in our code exists in 8.6.0, 10.16.1 and 11.4.0, or is asked for before it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.blocked import ROOT
from tests.engines.tensorrt_checker import Finding, check
from tests.fake_gpu.tensorrt_names import VERSIONS, table

OURS = ("runtime", "export", "plugins", "benchmarks")
HANDLERS = (  # modules whose parameters named `engine`, `layer`, ... are TensorRT's
    "runtime/engines/trt.py",
    "runtime/engines/trt_compat.py",
    "runtime/engines/trt_context.py",
    "runtime/engines/trt_engine.py",
    "export/engines/compat.py",
    "export/engines/compile.py",
    "export/engines/islands.py",
)
FILES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))


def findings(source: str) -> list[str]:
    return [finding.text for finding in check(f"import tensorrt as trt\n{source}", handles=True).findings]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_is_in_every_version_or_asked_for(path: Path) -> None:
    handles = path.relative_to(ROOT).as_posix() in HANDLERS
    found: list[Finding] = check(path.read_text(encoding="utf-8"), handles).findings
    assert not found, "\n".join(f"{path}:{finding.line}: {finding.text}" for finding in found)


def test_the_walk_sees_the_names_that_are_there() -> None:
    seen = {name: check((ROOT / name).read_text(encoding="utf-8"), handles=True).looked_up for name in HANDLERS}
    assert seen["export/engines/compat.py"] > 50 and seen["runtime/engines/trt_compat.py"] > 12, seen
    assert seen["runtime/engines/trt_engine.py"] > 12 and min(seen.values()) > 2, f"moved away? {seen}"


def test_the_table_is_whole() -> None:
    counts = [sum(version in facts.versions for facts in table().values()) for version in VERSIONS]
    assert (len(table()), counts) == (1931, [1343, 1701, 1599])
    assert table()["IOptimizationProfile.set_shape"].signatures == (("input", "min", "opt", "max"),)


GOOD = {
    "all versions": "trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(b'')",
    "result of a function": "trt.get_plugin_registry().load_library('library.so')",
    "hasattr": "if hasattr(trt.BuilderFlag, 'FP16'):\n    trt.BuilderFlag.FP16",
    "and": "x = 1\nif x and hasattr(trt.BuilderFlag, 'FP16'):\n    trt.BuilderFlag.FP16",
    "and in one expression": "hasattr(trt.BuilderFlag, 'FP16') and trt.BuilderFlag.FP16",
    "conditional expression": "x = trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, 'FP16') else 0",
    "alias of a class": "flags = trt.BuilderFlag\nif hasattr(flags, 'FP16'):\n    flags.FP16",
    "another name of the same versions": "flags = trt.BuilderFlag\nif hasattr(flags, 'FP16'):\n    flags.INT8",
    "else of a newer name": "def f(engine: Any):\n  if hasattr(engine, 'device_memory_size_v2'):\n    return "
    "engine.device_memory_size_v2\n  else:\n    return engine.device_memory_size",
    "return behind a test": "def f():\n  if not hasattr(trt, 'IProgressMonitor'):\n    return\n  trt.IProgressMonitor",
    "continue behind a test": "def f(config: Any):\n  for n in 'ab':\n    if not hasattr(trt.BuilderFlag, 'FP16'):\n"
    "      continue\n    trt.BuilderFlag.FP16",
    "predicate": "def typed():\n  return hasattr(trt, 'IProgressMonitor')\ndef f():\n  if typed():\n    "
    "trt.IProgressMonitor",
    "getattr with a default": "def f(engine: Any):\n  return getattr(engine, 'device_memory_size_v2', None)",
    "except": "try:\n    trt.BuilderFlag.FP16\nexcept AttributeError:\n    pass",
    "keyword": "trt.Builder(trt.Logger()).create_optimization_profile().set_shape('x', min=(1,), opt=(1,), max=(2,))",
    "override": "class L(trt.ILogger):\n  def log(self, severity, msg): ...",
    "filter": "[layer.precision for layer in range(2) if hasattr(layer, 'precision')]",
    "our own attribute": "class A:\n  def f(self):\n    return self.precision",
}
BAD = {
    "removed in 11": ("trt.BuilderFlag.FP16", "missing in ['11.4.0']"),
    "not yet in 8.6": ("trt.IProgressMonitor", "missing in ['8.6.0']"),
    "through an alias": ("flags = trt.BuilderFlag\nflags.FP16", "missing in ['11.4.0']"),
    "from import": ("from tensorrt import IProgressMonitor", "missing in ['8.6.0']"),
    "misspelt class": ("trt.BuilderFlags", "no version has tensorrt.BuilderFlags"),
    "misspelt method": ("b = trt.Builder(trt.Logger())\nb.create_netwrok(0)", "no version has Builder.create_netwrok"),
    "misspelt method of a result": (
        "trt.Builder(trt.Logger()).create_builder_config().set_falg(1)",
        "no version has IBuilderConfig.set_falg",
    ),
    "misspelt method of a function's result": (
        "trt.get_plugin_registry().load_libary('library.so')",
        "no version has IPluginRegistry.load_libary",
    ),
    "misspelt method of a parameter": (
        "def f(engine: Any):\n  engine.get_tensor_nam(0)",
        "no version has ICudaEngine.get_tensor_nam",
    ),
    "misspelt method of self": (
        "class A:\n  def __init__(self):\n    self.r = trt.Runtime(trt.Logger())\n  def f(self):\n    self.r.load()",
        "no version has Runtime.load",
    ),
    "wrong keyword": (
        "trt.Builder(trt.Logger()).create_optimization_profile().set_shape(name='x', min=1, opt=1, max=1)",
        "no keywords",
    ),
    "too many values": ("trt.Builder(trt.Logger(), 1)", "takes"),
    "guard of another name": ("if hasattr(trt, 'IProgressMonitor'):\n    trt.BuilderFlag.FP16", "['11.4.0']"),
    "the wrong way round": ("if not hasattr(trt.BuilderFlag, 'FP16'):\n    trt.BuilderFlag.FP16", "['11.4.0']"),
    "behind the guard": ("if hasattr(trt.BuilderFlag, 'FP16'):\n    pass\ntrt.BuilderFlag.FP16", "['11.4.0']"),
    "or": ("x = 1\nif x or hasattr(trt.BuilderFlag, 'FP16'):\n    trt.BuilderFlag.FP16", "['11.4.0']"),
    "guard that asks in vain": ("hasattr(trt.BuilderFlag, 'FP61')", "no version has trt.BuilderFlag.FP61"),
    "getattr without a default": ("getattr(trt.BuilderFlag, 'FP16')", "['11.4.0']"),
    "except of another error": ("try:\n    trt.BuilderFlag.FP16\nexcept ValueError:\n    pass", "['11.4.0']"),
    "object of unknown kind": ("def f(x: Any):\n  return x.set_output_type(0, 1)", "['11.4.0']"),
    "binding indices": ("def f(engine: Any):\n  return engine.num_bindings", "missing in ['10.16.1', '11.4.0']"),
    "override with other parameters": ("class L(trt.ILogger):\n  def log(self, msg): ...", "takes 1 parameters"),
}


@pytest.mark.parametrize("source", GOOD.values(), ids=GOOD.keys())
def test_good_code_passes(source: str) -> None:
    assert findings(source) == []


@pytest.mark.parametrize(("source", "says"), BAD.values(), ids=BAD.keys())
def test_bad_code_is_found(source: str, says: str) -> None:
    found = findings(source)
    assert len(found) == 1 and says in found[0], found
