"""A layout as a picture: for a notebook, and as a file that appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtime.arrays import Array
from runtime.errors import SceneError
from runtime.files import replacing
from runtime.layout import Layout
from runtime.pictures.libraries import need
from runtime.points import PointCloud, read_point_cloud

PLOT_ENDINGS = (".png", ".pdf", ".svg")


def plot_layout(
    layout: Layout,
    cloud: PointCloud | Array | str | Path | None = None,
    truth: Layout | None = None,
    *,
    title: str = "",
) -> Any:
    """A matplotlib Figure: the room from above and from a corner, over the points; with `truth`, both beside each other
    and F1 at IoU 0.25 and 0.5 in the title.

    `cloud` is what `Pipeline` takes: a file, a PointCloud, or an array [N, 3] or [N, 6]. Everything in metres.
    A notebook shows the figure; `.savefig("scene.png")` writes it. Raises SceneError.
    """
    need("matplotlib")
    from runtime.pictures.figure import draw

    if isinstance(cloud, str | Path):
        title = title or Path(cloud).stem
        cloud = read_point_cloud(cloud)
    elif isinstance(cloud, np.ndarray):
        cloud = PointCloud.from_array(cloud)
    return draw(layout, cloud, truth, title or "Layout")


def write_plot(figure: Any, path: Path) -> None:
    """Write what `plot_layout` made as .png, .pdf or .svg, by the path's ending. Raises SceneError."""
    from runtime.pictures.figure import encoded

    check_ending(path)
    content = encoded(figure, path.suffix.lower()[1:])
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise SceneError(
            f"{path}: cannot be written ({error.strerror or error}). "
            "Name a picture in a folder that exists and can be written to."
        ) from error


def check_ending(path: Path) -> None:
    """Raises SceneError for a picture that is neither .png nor .pdf nor .svg."""
    if path.suffix.lower() not in PLOT_ENDINGS:
        raise SceneError(
            f"{path}: the ending is {path.suffix!r}, but {', '.join(PLOT_ENDINGS[:-1])} or {PLOT_ENDINGS[-1]} was "
            "expected. Rename the picture."
        )
