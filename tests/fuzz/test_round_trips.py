"""What a writer puts into a PLY file, the reader gives back: all number types, orders, spellings, elements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from numpy.lib.recfunctions import repack_fields
from plyfile import PlyElement

from runtime.arrays import Array
from runtime.points import PointCloud, read_point_cloud
from tests.fuzz.settings import examples
from tests.points.ply_writer import write

NUMBERS = ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]
SPELLINGS = [("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")]
FULL_SCALE = {"u1": 255, "u2": 65535, "f4": 1, "f8": 1}


def values(kind: str) -> st.SearchStrategy[Any]:
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return st.floats(-(2.0**20), 2.0**20, width=8 * dtype.itemsize)  # type: ignore[arg-type]
    return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


@st.composite
def columns(draw: st.DrawFn, names: list[str], rows: int) -> list[tuple[str, str, Array]]:
    """Name, type and values of each column."""
    kinds = [draw(st.sampled_from(NUMBERS)) for _ in names]
    return [
        (name, kind, draw(some.arrays(kind, rows, elements=values(kind))))
        for name, kind in zip(names, kinds, strict=True)
    ]


@st.composite
def vertices(draw: st.DrawFn) -> tuple[PlyElement, Array, Array | None]:
    """A vertex element with its coordinates and colours: other properties and lists stand between."""
    rows = draw(st.integers(2, 12))
    place = draw(columns([*"xyz"], rows))
    others = draw(columns(draw(st.lists(st.sampled_from(["nx", "quality", "alpha"]), unique=True)), rows))
    colors = []
    if draw(st.booleans()):
        kind = draw(st.sampled_from(list(FULL_SCALE)))
        top = FULL_SCALE[kind]
        shade = st.floats(0, 1, width=32) if top == 1 else st.integers(0, top)
        colors = [
            (name, kind, draw(some.arrays(kind, rows, elements=shade))) for name in draw(st.sampled_from(SPELLINGS))
        ]
    lists = draw(st.booleans())
    table = draw(st.permutations([*place, *others, *colors]))
    fields: list[Any] = [(name, kind) for name, kind, _ in table]
    fields.insert(draw(st.integers(0, len(fields))), ("near", "O")) if lists else None
    data = np.empty(rows, dtype=fields)
    for name, _, column in table:
        data[name] = column
    if lists:
        data["near"] = [np.arange(draw(st.integers(0, 3)), dtype="i4") for _ in range(rows)]
    unit = None if not colors else np.stack([c.astype(float) / FULL_SCALE[kind] for _, kind, c in colors], axis=1)
    points = np.stack([c.astype(np.float64) for _, _, c in place], axis=1)
    return PlyElement.describe(data, "vertex"), points, unit


@st.composite
def other_element(draw: st.DrawFn, name: str) -> PlyElement:
    rows = draw(st.integers(0, 4))
    data = np.empty(rows, dtype=[("id", "i2"), ("items", "O"), ("gain", "f8")])
    data["id"], data["gain"] = np.arange(rows), 0.5
    data["items"] = [np.arange(draw(st.integers(0, 5)), dtype="i4") for _ in range(rows)]
    return PlyElement.describe(repack_fields(data[["id", "gain"]]) if draw(st.booleans()) else data, name)


@examples(150)
@given(
    vertex=vertices(), before=other_element("face"), after=other_element("edge"), form=st.sampled_from(["text", *"<>"])
)
def test_ply(tmp_path: Path, vertex: Any, before: PlyElement, after: PlyElement, form: str) -> None:
    element, points, colors = vertex
    assume((np.ptp(points, axis=0) * 0.25).astype(np.float32).any())  # equal as the model sees them is refused
    path = write(tmp_path / "a.ply", before, element, after, text=form == "text", byte_order=form)
    assert_cloud(read_point_cloud(path), points, colors)
    assert check_scaled(read_point_cloud(path, scale=0.25), points)


def assert_cloud(cloud: PointCloud, points: Array, colors: Array | None) -> None:
    np.testing.assert_array_equal(cloud.points, points)
    assert cloud.dropped == 0 and (colors is None) == (cloud.colors is None)
    if colors is not None:
        top = colors.max() * 65535
        if any("16-bit" in warning for warning in cloud.warnings):  # taken for bytes, and said so
            assert top <= 255
            colors = colors * 65535 / 255
        np.testing.assert_allclose(cloud.colors, colors, rtol=0, atol=1e-6)


def check_scaled(cloud: PointCloud, points: Array) -> bool:
    np.testing.assert_array_equal(cloud.points, points * 0.25)
    return not any("--scale" in warning for warning in cloud.warnings)


@examples(60)
@given(
    table=st.sampled_from(["i2", "u1", "i4", "f4", "f8"]).flatmap(
        lambda kind: some.arrays(kind, st.tuples(st.integers(2, 9), st.just(3)), elements=values(kind))
    ),
    form=st.sampled_from(["npy", "npz", "packed", "xyz", "array"]),
)
def test_tables(tmp_path: Path, table: Array, form: str) -> None:
    assume(np.ptp(table.astype(np.float64), axis=0).astype(np.float32).any())
    assert_cloud(read_table(tmp_path, table, form), table.astype(np.float64), None)


def read_table(folder: Path, table: Array, form: str) -> PointCloud:
    if form == "array":
        return PointCloud.from_array(table)
    path = folder / f"a.{'npz' if form == 'packed' else form}"
    if form == "npy":
        np.save(path, table)
    elif form == "xyz":
        path.write_text("\n".join(" ".join(map(repr, row)) for row in table.astype(np.float64).tolist()))
    else:
        (np.savez if form == "npz" else np.savez_compressed)(path, xyz=table)
    return read_point_cloud(path)
