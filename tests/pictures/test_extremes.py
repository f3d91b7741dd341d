"""Layouts of any numbers over clouds of any size, anywhere: always a picture, and never a warning."""

from __future__ import annotations

import warnings

import matplotlib.figure  # noqa: F401 - an old one warns of a newer pyparsing while it is imported
import numpy as np
import pytest

from runtime.layout import Layout, parse_layout
from runtime.pictures import plot_layout
from runtime.points import PointCloud

ODD = ("nan", "inf", "-inf", "1e308", "0", "1e6", "-1e-300")


def number(rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        return str(rng.choice(ODD))
    return f"{rng.normal() * 10.0 ** rng.integers(-8, 9) if rng.random() < 0.2 else rng.normal() * 3:.4g}"


def any_layout(rng: np.random.Generator) -> Layout:
    def line(label: str, first: str, numbers: int) -> str:
        return f"{label}_{rng.integers(4)}=It({first}{','.join(number(rng) for _ in range(numbers))})"

    lines = [line("wall", "", 8) for _ in range(rng.integers(6))]
    lines += [line(str(rng.choice(["door", "window"])), f"wall_{rng.integers(4)},", 5) for _ in range(rng.integers(5))]
    lines += [line("bbox", str(rng.choice(["a,", "b c,", "$x$,", "%,"])), 7) for _ in range(rng.integers(6))]
    return parse_layout("\n".join(lines))


def any_cloud(rng: np.random.Generator) -> PointCloud | None:
    if rng.random() < 0.15:
        return None
    points = rng.random((rng.integers(1, 200), 3)) * 10.0 ** rng.integers(-9, 8) * rng.choice([0, 1, 1, 1], 3)
    if rng.random() < 0.4:
        points += 10.0 ** rng.integers(-3, 9)
    return PointCloud(points, rng.random(points.shape) if rng.random() < 0.5 else None)


@pytest.mark.parametrize("seed", [*range(24), 51, 106])
def test_there_is_always_a_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("error", kind)
        figure = plot_layout(any_layout(rng), any_cloud(rng), any_layout(rng) if seed % 3 == 0 else None)
        if seed % 4 == 0:
            assert figure._repr_png_().startswith(b"\x89PNG")
    for ax in figure.axes:
        limits = np.array([ax.get_xlim(), ax.get_ylim()])
        assert np.isfinite(limits).all()
        assert (limits[:, 1] > limits[:, 0]).all()


def test_a_single_point_far_from_the_origin() -> None:
    for place in (0.0, 1.0, 1e8):
        plan, corner = plot_layout(Layout(), PointCloud(np.full((1, 3), place))).axes
        assert all(np.asarray(ax.get_images()[0].get_array())[..., 3].any() for ax in (plan, corner))
