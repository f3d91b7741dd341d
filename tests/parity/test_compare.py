"""Comparison and verdict on small recordings made by hand; recordings on disk."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from export.parity.limits import LIMITS
from export.parity.verdict import DIFFERENT, EQUAL, WITHIN, judge
from runtime.errors import SceneError
from runtime.rung import Recording
from runtime.rung.recording import NAMES

LAYERS, WIDTH, ROWS, STEPS = 3, 4, 5, 2
FACTS = {
    "rung": "a", "scene": "s.ply", "precision": "fp32", "quantization": None, "scene_sha256": "s", "positions": ROWS,
    "family": "qwen", "vlm_pe": None, "merge_rule": None, "prefill_attention": "causal",
}  # fmt: skip


def recording(rung: str = "a", tokens: tuple[int, ...] = (1, 2, 3), **facts: object) -> Recording:
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    arrays = {f"tables.{name}": some(ROWS, WIDTH) for name in ("cos_3d", "sin_3d", "cos_1d", "sin_1d")}
    arrays |= {"point_tokens": some(2, 6), "prefill.logits": some(9), "prefill.rows": some(ROWS, 2 * LAYERS, 1, WIDTH)}
    arrays |= {"forced.ids": np.zeros(STEPS, np.int32), "forced.logits": some(STEPS, 9)}
    arrays |= {"forced.rows": some(STEPS, 2 * LAYERS, 1, WIDTH)}
    arrays |= {"free.tokens": np.array(tokens, np.int32), "free.margins": np.array([1.0, 0.01, 0.5], np.float32)}
    assert set(arrays) == set(NAMES)
    return Recording(FACTS | {"rung": rung} | facts, arrays)


def off(got: Recording, name: str, index: tuple[object, ...], factor: float) -> Recording:
    array = got.arrays[name].copy()
    array[index] *= factor
    return Recording(got.facts, got.arrays | {name: array})


def test_equal_bits_are_equal() -> None:
    found = judge(recording(), recording("b"))
    assert found.verdict == EQUAL
    assert found.reason == "all 3 greedy tokens are equal; float32 sums in another order."


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_first_layer_that_departs_is_named(layer: int) -> None:
    wrong = off(recording("b"), "prefill.rows", (slice(None), LAYERS + layer), 1.001)
    wrong = off(wrong, "forced.logits", (0,), 1.1)
    found = judge(recording(), wrong)
    assert found.verdict == DIFFERENT
    assert found.departure is not None
    assert found.departure.place == f"values of the prompt of layer {layer}"
    assert found.departure.error == pytest.approx(1e-3, rel=1e-3)


def test_precision_widens_the_limits_of_the_pair() -> None:
    wrong = off(recording("b", precision="fp16"), "prefill.rows", (slice(None), 0), 1.001)
    assert judge(recording(), wrong).verdict == WITHIN
    assert judge(recording(), off(wrong, "prefill.rows", (slice(None), 0), 1.01)).verdict == DIFFERENT
    assert LIMITS["fp32"].rows < LIMITS["fp16"].rows < LIMITS["bf16"].rows


def test_limits_grow_with_the_layers_and_a_percent_stays_beyond_them() -> None:
    limits = LIMITS["fp16"]
    assert limits.rows_of(0) == limits.rows_of(7) == limits.rows
    assert limits.rows_of(23) == pytest.approx(limits.rows * 3**0.5)
    assert limits.logits_behind(2) == limits.logits < limits.logits_behind(24)
    assert limits.rows_of(31) < 0.01, "one layer's weights off by one per cent"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_different(value: float) -> None:
    found = judge(recording(), off(recording("b"), "prefill.logits", (0,), value))
    assert found.verdict == DIFFERENT


def test_a_token_within_the_error_is_a_coin_toss() -> None:
    """The reference's margin at token 1 is 0.01."""
    got = recording("b", tokens=(1, 7, 3), precision="fp16")
    logits = got.arrays["forced.logits"].copy()
    logits[1, 0] += 0.006  # twice that is more than the margin
    found = judge(recording(), Recording(got.facts, got.arrays | {"forced.logits": logits}))
    assert (found.verdict, found.tokens.equal, found.tokens.coin_toss) == (WITHIN, 1, True)
    assert "a coin toss" in found.reason


def test_a_token_at_a_wide_margin_is_a_difference() -> None:
    found = judge(recording(), recording("b", tokens=(4, 2, 3), precision="fp16"))
    assert (found.verdict, found.departure, found.tokens.equal) == (DIFFERENT, None, 0)
    assert found.reason.startswith("greedy token 0 differs, where the margin is 1, more than")


@pytest.mark.parametrize(("fact", "value"), [("scene_sha256", "other"), ("vlm_pe", "3D_RoPE"), ("family", "llama")])
def test_recordings_of_something_else_are_refused(fact: str, value: str) -> None:
    with pytest.raises(SceneError, match=re.escape(f"b: its recording has another {fact} ({value})")):
        judge(recording(), recording("b", **{fact: value}))


def test_a_recording_survives_the_disk(tmp_path: Path) -> None:
    recording("b", device="x").save(tmp_path / "r.npz")
    back = Recording.load(tmp_path / "r.npz")
    assert back.facts == recording("b", device="x").facts
    assert judge(recording(), back).verdict == EQUAL
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


def altered(name: str, change: object) -> Recording:
    good = recording()
    if not callable(change):
        return Recording(good.facts | {name: change}, good.arrays)
    return Recording(good.facts, good.arrays | {name: change(good.arrays[name])})


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("prefill.logits", lambda a: a[None], r"prefill\.logits is float32\[1, 9\], but float32\[V\] was expected"),
        ("forced.logits", lambda a: a.astype(np.float64), r"forced\.logits is float64"),
        ("free.tokens", lambda a: a.astype(np.float32), r"free\.tokens is float32\[3\], but int32\[n\] was expected"),
        ("free.margins", lambda a: a[:2], r"free\.margins has n = 2, but another array has 3"),
        ("forced.rows", lambda a: a[:, :-2], r"forced\.rows has 2L = 4, but another array has 6"),
        ("tables.sin_1d", lambda a: a[:-1], r"tables\.sin_1d has S = 4, but another array has 5"),
        ("rung", None, "its facts have no rung"),
        ("scene", 3, "its facts have no scene"),
        ("precision", "fp8", "its precision is 'fp8'"),
        ("quantization", [8], r"quantization \[8\]"),
        ("rung", "a\x1b[31m", r"its rung is named 'a\\x1b\[31m'"),
        ("rung", "", "its rung is named ''"),
        ("digests", "abc", "its digests are not a text for each graph"),
        ("digests", {"prefill": [1]}, "its digests are not a text for each graph"),
        ("free.tokens", lambda a: a - 9, r"free\.tokens holds -8, but ids of tokens begin at 0"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_damaged_recordings_are_refused(tmp_path: Path, name: str, change: object, reason: str) -> None:
    altered(name, change).save(tmp_path / "r.npz")
    with pytest.raises(SceneError, match=rf"r\.npz: not a recording of a rung \(.*{reason}"):
        Recording.load(tmp_path / "r.npz")


@pytest.mark.parametrize("cut", [10, 300, -200, -1])
def test_a_recording_that_was_cut_or_flipped_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.npz"
    recording().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with pytest.raises(SceneError, match=r"r\.npz: not a recording of a rung"):
        Recording.load(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(SceneError, match=r"r\.npz: not a recording of a rung"):
        Recording.load(path)


def test_recordings_of_other_sizes_are_a_sentence() -> None:
    other = recording("b")
    rows = {name: other.arrays[name][:, :-2] for name in ("prefill.rows", "forced.rows")}
    with pytest.raises(SceneError, match=r"rows of the prompt: \[5, 4, 1, 4\] were recorded, but \[5, 6, 1, 4\] were"):
        judge(recording(), Recording(other.facts, other.arrays | rows))
    with pytest.raises(SceneError, match="b: its recording was fed other tokens than that of a"):
        judge(recording(), Recording(other.facts, other.arrays | {"forced.ids": np.ones(STEPS, np.int32)}))


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    for content in (b"", b"no zip", json.dumps({}).encode()):
        path.write_bytes(content)
        with pytest.raises(SceneError, match=r"r\.npz: not a recording of a rung"):
            Recording.load(path)
    np.savez(path, facts=np.frombuffer(b'{"schema": 1}', np.uint8))
    with pytest.raises(SceneError, match=r"it lacks tables\.cos_3d"):
        Recording.load(path)
    with pytest.raises(SceneError, match="not a recording"):
        Recording.load(tmp_path / "missing.npz")
    os.mkfifo(tmp_path / "pipe.npz")  # to open it would wait for ever
    with pytest.raises(SceneError, match=r"pipe\.npz: not a recording of a rung \(it is no ordinary file\)"):
        Recording.load(tmp_path / "pipe.npz")


@pytest.mark.parametrize(("field", "value"), [(8, 1), (10, 99)], ids=["encrypted", "packed in an unknown way"])
def test_members_that_zipfile_does_not_read_are_refused(tmp_path: Path, field: int, value: int) -> None:
    path = tmp_path / "r.npz"
    recording().save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + field] = value  # flags or method of the first entry of the directory
    path.write_bytes(content)
    with pytest.raises(SceneError, match=r"facts\.npy is encrypted or packed in an unknown way"):
        Recording.load(path)


def test_a_packed_recording_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    good, path = recording(), tmp_path / "r.npz"
    good.save(path)
    with np.load(path) as file:
        np.savez_compressed(path, **dict(file))
    assert Recording.load(path).facts == good.facts
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30  # inside the first member
    path.write_bytes(content)
    with pytest.raises(SceneError, match=r"r\.npz: not a recording of a rung"):
        Recording.load(path)


@pytest.mark.parametrize(
    ("size", "sentence"), [(10**14, "not enough memory to read it"), (10**26, "not a recording of a rung")]
)
def test_shapes_that_no_memory_holds(tmp_path: Path, size: int, sentence: str) -> None:
    path = tmp_path / "r.npz"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size},), }}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("facts.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises(SceneError, match=rf"r\.npz: .*{sentence}"):
        Recording.load(path)
