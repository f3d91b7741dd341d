"""The ONNX Runtime back end: addresses, shapes, shared weights, refusals."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.arrays import Array
from runtime.bundle import Bundle
from runtime.engines import Engine, Tensor, open_backend
from runtime.engines.host import host_array
from runtime.engines.ort import OrtBackend
from runtime.errors import EngineError
from tests.blocked import ROOT
from tests.compare import EXACT, assert_close
from tests.exported import Export, Exported


def decode_arrays(case: Exported, batch: int, new: int, rows: int = 32, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    spec = case.bundle.manifest.language_model
    arrays: dict[str, Array] = {
        "input_ids": rng.integers(0, spec.vocab_size, (batch, new)).astype(np.int32),
        "cos": rng.uniform(-1, 1, (batch, new, spec.head_dim)).astype(np.float32),
        "sin": rng.uniform(-1, 1, (batch, new, spec.head_dim)).astype(np.float32),
        "past_length": np.full(batch, rows - 3, np.int32),
    }
    shape = (rows, batch, spec.kv_heads, spec.head_dim)
    for kind in ("key", "value"):
        arrays |= {f"past_{kind}.{layer}": rng.normal(0, 1, shape).astype(np.float32) for layer in range(spec.layers)}
    return arrays


def upload(arrays: dict[str, Array]) -> dict[str, Tensor]:
    return {name: OrtBackend().upload(array) for name, array in arrays.items()}


def load(case: Exported, graph: str = "decode") -> Engine:
    return open_backend("onnxruntime", threads=1).load(case.bundle, graph)


def test_outputs_land_in_the_memory_given(exported: Export) -> None:
    case = exported("qwen")
    spec = case.bundle.manifest.language_model
    engine = load(case)
    slab = OrtBackend().zeros((9, 1, 2, spec.kv_heads, spec.head_dim), "float32")
    feeds = upload(decode_arrays(case, batch=2, new=1))
    fresh = engine.run(feeds)
    results = engine.run(feeds, {"key.1": slab[4], "value.0": slab[7]})
    for name, index in {"key.1": 4, "value.0": 7}.items():
        assert host_array(results[name]).ctypes.data == slab.array[index].ctypes.data
        assert_close(name, slab.array[index], host_array(fresh[name]), EXACT)
    assert not slab.array[[0, 1, 2, 3, 5, 6, 8]].any(), "the rows beside are untouched"
    assert_close("logits", host_array(results["logits"]), host_array(fresh["logits"]), EXACT)


def test_results_outlive_the_next_run(exported: Export) -> None:
    case = exported("qwen")
    engine = load(case)
    first = host_array(engine.run(upload(decode_arrays(case, 1, 1)))["logits"])
    before = first.copy()
    engine.run(upload(decode_arrays(case, 1, 1, seed=1)))
    gc.collect()
    assert_close("logits", first, before, EXACT)


def test_a_changed_shape_gives_the_new_output_shape(exported: Export) -> None:
    case = exported("qwen")
    engine = load(case)
    for batch, new, rows in [(1, 1, 32), (1, 5, 32), (3, 1, 48), (1, 1, 32), (2, 2, 5)]:
        arrays = decode_arrays(case, batch, new, rows)
        got, want = (each.run(upload(arrays)) for each in (engine, load(case)))
        spec = case.bundle.manifest.language_model
        assert got["logits"].shape == (batch, new, spec.vocab_size)
        assert got["key.0"].shape == (new, batch, spec.kv_heads, spec.head_dim)
        for name in engine.outputs:
            assert_close(name, host_array(got[name]), host_array(want[name]), EXACT)


def test_a_buffer_of_another_shape_is_refused(exported: Export) -> None:
    case = exported("qwen")
    spec = case.bundle.manifest.language_model
    engine, feeds = load(case), upload(decode_arrays(case, batch=1, new=1))
    long = OrtBackend().zeros((2, 1, spec.kv_heads, spec.head_dim), "float32")
    with pytest.raises(EngineError, match=r"decode: axis T is 2 in 'key\.0', but 1 in 'input_ids'; they must agree"):
        engine.run(feeds, {"key.0": long})
    with pytest.raises(EngineError, match=r"'key\.0' is float16\[1, 1, 2, 64\], but the engine takes float32\[T, B"):
        engine.run(feeds, {"key.0": OrtBackend().zeros((1, 1, spec.kv_heads, spec.head_dim), "float16")})
    with pytest.raises(EngineError, match=r"missing or unknown tensors: keys\.0\."):
        engine.run(feeds, {"keys.0": long})


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("cos", None, r"decode: missing or unknown tensors: cos\. The bundle and the runtime differ"),
        ("cosine", np.zeros(3), r"decode: missing or unknown tensors: cosine\."),
        ("input_ids", np.zeros((1, 1), np.int64), r"'input_ids' is int64\[1, 1\], but the engine takes int32\[B, T\]"),
        ("cos", np.zeros((1, 64), np.float32), r"'cos' is float32\[1, 64\], but the engine takes float32\[B, T, 64\]"),
        ("cos", np.zeros((1, 1, 32), np.float32), r"'cos' is float32\[1, 1, 32\], but the engine takes"),
        ("sin", np.zeros((1, 2, 64), np.float32), r"axis T is 2 in 'sin', but 1 in 'input_ids'; they must agree"),
        ("past_length", np.zeros(2, np.int32), r"axis B is 2 in 'past_length', but 1 in 'input_ids'"),
    ],
    ids=["missing", "unknown", "dtype", "rank", "fixed axis", "new positions", "batch"],
)
def test_feeds_are_checked(exported: Export, name: str, change: Array | None, sentence: str) -> None:
    case = exported("qwen")
    arrays = decode_arrays(case, batch=1, new=1)
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change
    with pytest.raises(EngineError, match=sentence):
        load(case).run(upload(arrays))


def test_a_failure_inside_the_graph_is_a_sentence(exported: Export) -> None:
    case = exported("qwen")
    arrays = decode_arrays(case, batch=1, new=1) | {"input_ids": np.full((1, 1), 10**6, np.int32)}
    with pytest.raises(EngineError, match=r"decode: ONNX Runtime failed: .*1000000"):
        load(case).run(upload(arrays))


def test_a_graph_that_is_none_is_refused(exported: Export, tmp_path: Path) -> None:
    case = exported("qwen")
    folder = Path(shutil.copytree(case.bundle.folder, tmp_path / "bundle"))
    (folder / "decode.onnx").write_bytes(b"this is no graph")
    with pytest.raises(EngineError, match=r"decode\.onnx: ONNX Runtime [\d.]+ refuses the graph: "):
        open_backend().load(Bundle(folder, case.bundle.manifest), "decode")


def test_sessions_read_one_map_of_the_weights(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    case, opened = exported("qwen"), []
    real = Bundle.weights
    monkeypatch.setattr(Bundle, "weights", lambda self, graph: opened.append(graph) or real(self, graph))
    backend = open_backend()
    for graph in ("encoder", "prefill", "decode"):
        backend.load(case.bundle, graph)
    assert opened == ["encoder", "prefill"], "decode takes prefill's map"


def test_a_bundle_exported_anew_is_read_anew(exported: Export, tmp_path: Path) -> None:
    one, other = exported("qwen"), exported("qwen", seed=1)
    folder = Path(shutil.copytree(one.bundle.folder, tmp_path / "bundle"))
    backend, arrays = open_backend(threads=1), decode_arrays(one, 1, 1)
    logits = []
    for case in (one, other):
        shutil.rmtree(folder)
        shutil.copytree(case.bundle.folder, folder)
        results = backend.load(Bundle.open(folder), "decode").run(upload(arrays))
        want = load(case).run(upload(arrays))
        logits.append(host_array(results["logits"]))
        assert_close("logits", logits[-1], host_array(want["logits"]), EXACT)
    assert (logits[0] != logits[1]).any()


MEASURE = """
import sys
from runtime.bundle import Bundle
from runtime.engines import open_backend
def resident():
    status = open("/proc/self/status").read().split()
    return [int(status[status.index(kind) + 1]) * 1024 for kind in ("RssAnon:", "RssFile:")]
bundle, backend = Bundle.open(sys.argv[1]), open_backend(threads=1)
backend.load(bundle, "encoder")
before = resident()
engines = [backend.load(bundle, graph) for graph in ("prefill", "decode")]
sizes = {"B": 1, "S": 4, "T": 1, "M": 8}
for engine in engines:
    shapes = {name: [sizes.get(axis, axis) for axis in spec.shape] for name, spec in engine.inputs.items()}
    engine.run({name: backend.zeros(shape, engine.inputs[name].dtype) for name, shape in shapes.items()})
print(*(now - then for now, then in zip(resident(), before)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_two_sessions_hold_the_weights_once(exported: Export) -> None:
    case = exported("qwen", overrides={"intermediate_size": 16384})
    weights = (case.bundle.folder / "language_model.weights").stat().st_size
    assert weights > 100e6
    command = [sys.executable, "-c", MEASURE, str(case.bundle.folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    anonymous, mapped = map(int, result.stdout.split())
    assert anonymous < 0.1 * weights, "a session has a copy of its own"
    assert 0.8 * weights < mapped < 1.2 * weights, "pages of the file, once"
