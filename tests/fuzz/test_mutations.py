"""Files with damage: a cloud or one sentence comes out, and no more memory is asked for than the file justifies."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyElement

from runtime.errors import PlyError
from runtime.points import PointCloud, read_point_cloud
from tests.fuzz.settings import examples
from tests.points.ply_writer import write

TIMES, CONSTANT = 20, 1 << 18  # bytes asked for: so many times the file's, and a quarter of a MiB for small ones
ROWS = 4000

HUGE = [b"0", b"-1", b"4294967295", b"1000000000000", b"1" + b"0" * 40, b"1e300", b"nan", b"x", b""]
WORDS = [
    b"element vertex ", b"property float x\n", b"property list uchar int x\n", b"property list double double near\n",
    b"end_header\n", b"comment \xff\n", b"\r\n", b"\r", b"\0" * 8, b"\xff" * 4, b"format ascii 1.0\n", b"element e 9\n",
    b"property uchar alpha\n", b"binary_big_endian", b"ascii", b"(" * 50, b"(1000000000000, 3)", b"'descr': '|O'",
    b"fortran_order': True", b"PK\x05\x06", b"nan ", b"-inf\n", b"1e400 ", b"#", b"//", b",", b"1 2 3 4\n",
]  # fmt: skip


def ply(folder: Path, form: str, lists: bool) -> bytes:
    rng = np.random.default_rng(0)
    kinds = [(n, "f4") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")]
    data = np.zeros(60, dtype=([("near", "O")] if lists else []) + kinds)
    for name, kind in kinds:
        data[name] = rng.integers(0, 200, 60) if kind == "u1" else rng.random(60)
    if lists:
        data["near"] = [np.arange(row % 4, dtype="i4") for row in range(60)]
    faces = np.empty(3, dtype=[("vertex_indices", "O")])
    faces["vertex_indices"] = [np.arange(n, dtype="i4") for n in (3, 4, 3)]
    elements = [PlyElement.describe(data, "vertex"), PlyElement.describe(faces, "face")]
    path = write(folder / "seed", *(elements[::-1] if lists else elements), text=form == "text", byte_order=form)
    return path.read_bytes()


def table_bytes(form: str) -> bytes:
    table = np.random.default_rng(0).random((60, 3)).astype(np.float32)
    stream = io.BytesIO()
    if form == "npy":
        np.save(stream, table)
    elif form == "xyz":
        np.savetxt(stream, table, fmt="%.3f")
    else:
        save = np.savez if form == "npz" else np.savez_compressed
        save(stream, points=table, colors=table)
    return stream.getvalue()


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """Where (as a share of the file) and what: bytes put over, put in, or cut out; most of it in the header."""
    place = st.one_of(st.floats(0, 1), st.floats(0, 0.25))
    what = st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(WORDS + HUGE))
    return draw(st.lists(st.tuples(st.sampled_from(["over", "in", "out", "end"]), place, what), min_size=1, max_size=4))


def damaged(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for how, share, piece in changes:
        place = int(share * len(data))
        tail = data[place:]
        if how == "end":
            data = data[: max(1, place)]
        else:
            data = data[:place] + (b"" if how == "out" else piece) + tail[0 if how == "in" else len(piece) :]
    return data


@dataclass(frozen=True)
class Reading:
    """What a file gave: the cloud or the sentence, and the most bytes that were asked for meanwhile."""

    path: Path
    result: PointCloud | str
    peak: int

    @property
    def justified(self) -> bool:
        """No more memory than the file's size allows."""
        return self.peak <= TIMES * self.path.stat().st_size + CONSTANT

    @property
    def sound(self) -> bool:
        """A cloud of real points, or one sentence that names the file."""
        if isinstance(self.result, str):
            return self.path.name in self.result and "Traceback" not in self.result and len(self.result) < 2000
        return bool(np.isfinite(self.result.points).all()) and len(self.result) >= 2


def read(path: Path) -> Reading:
    """Fails for any other exception and for any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracemalloc.start()
        try:
            result: PointCloud | str = read_point_cloud(path)
        except PlyError as error:
            result = str(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    return Reading(path, result, peak)


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("form", ["text", "<", ">"])
@examples(100)
@given(changes=damage())
def test_damaged_ply(tmp_path: Path, form: str, lists: bool, changes: list[tuple[str, float, bytes]]) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(damaged(ply(tmp_path, form, lists), changes))
    reading = read(path)
    assert reading.justified and reading.sound, reading


@pytest.mark.parametrize("count", HUGE)
@pytest.mark.parametrize("element", [b"element vertex 60", b"element face 3"])
@pytest.mark.parametrize("form", ["text", "<", ">"])
def test_ply_counts(tmp_path: Path, form: str, element: bytes, count: bytes) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(ply(tmp_path, form, True).replace(element, element.rsplit(b" ", 1)[0] + b" " + count))
    if count != b"0" or b"vertex" in element:
        reading = read(path)
        assert reading.justified and reading.sound and isinstance(reading.result, str), reading


@pytest.mark.parametrize("form", ["npy", "npz", "packed", "xyz"])
@examples(100)
@given(changes=damage())
def test_damaged_tables(tmp_path: Path, form: str, changes: list[tuple[str, float, bytes]]) -> None:
    path = tmp_path / f"a.{'npz' if form == 'packed' else form}"
    path.write_bytes(damaged(table_bytes(form), changes))
    reading = read(path)
    assert reading.justified and reading.sound, reading


@pytest.mark.parametrize("ending", ["ply", "npy", "npz", "xyz", "txt"])
@examples(60)
@given(
    data=st.binary(min_size=1, max_size=300), magic=st.sampled_from([b"", b"ply\n", b"\x93NUMPY\x01\0", b"PK\x03\x04"])
)
def test_garbage(tmp_path: Path, ending: str, data: bytes, magic: bytes) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(magic + data)
    reading = read(path)
    assert reading.justified and reading.sound, reading


@examples(60)
@given(size=st.integers(0, 2**32 - 1), field=st.sampled_from([18, 22, 26, 28]))
def test_sizes_in_an_archive(tmp_path: Path, size: int, field: int) -> None:
    """Sizes stand twice in an archive: before the member, and in the directory two bytes later."""
    data = bytearray(table_bytes("packed"))
    directory = data.index(b"PK\x01\x02")
    wide = ("<I", size) if field < 26 else ("<H", size % 2**16)
    struct.pack_into(wide[0], data, field, wide[1])
    struct.pack_into(wide[0], data, directory + field + 2, wide[1])
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    reading = read(path)
    assert reading.justified and reading.sound, reading


def large(form: str) -> bytes:
    """As many points in as few bytes as the format has room for: what reading costs at most."""
    values = np.random.default_rng(0).integers(0, 100, (ROWS, 3)).astype(np.int8)
    properties = b"".join(b"property char %s\n" % name for name in (b"x", b"y", b"z"))
    header = b"ply\nformat %s 1.0\nelement vertex %d\n%send_header\n"
    lines = "\n".join(" ".join(map(str, row)) for row in (values % 10).tolist()).encode()
    if form == "npy":
        stream = io.BytesIO()
        np.save(stream, values)
        return stream.getvalue()
    if form == "binary":
        return header % (b"binary_little_endian", ROWS, properties) + values.tobytes()
    if form == "lists":
        rows = np.hstack([values, np.zeros((ROWS, 1), np.int8)])
        properties += b"property list uchar int near\n"
        return header % (b"binary_little_endian", ROWS, properties) + rows.tobytes()
    return lines if form == "xyz" else header % (b"ascii", ROWS, properties) + lines


@pytest.mark.parametrize("form", ["npy", "binary", "lists", "text", "xyz"])
def test_the_memory_of_large_files(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.test_mutations.CONSTANT", 1 << 16)
    path = tmp_path / {"npy": "a.npy", "xyz": "a.xyz"}.get(form, "a.ply")
    path.write_bytes(large(form))
    reading = read(path)
    assert reading.justified and reading.sound and isinstance(reading.result, PointCloud), reading
