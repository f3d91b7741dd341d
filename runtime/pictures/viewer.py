"""A recording for the Rerun viewer, with what upstream's visualizer shows."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import SceneError
from runtime.files import replacing
from runtime.layout import Layout, OrientedBox, to_boxes
from runtime.pictures.libraries import need
from runtime.pictures.thinning import thinned
from runtime.points import PointCloud

APPLICATION, TIMELINE, STEP = "rerun_spatiallm", "time_sec", 0.5  # seconds between two boxes
MAX_POINTS, RADIUS = 1_000_000, 0.01  # radius in metres
BYTES_OF_A_POINT, BYTES_BESIDE = 16, 1 << 20  # three floats and a colour; blueprint, boxes, framing
RERUN_ENDING = ".rrd"


def write_rerun(
    layout: Layout, cloud: PointCloud, path: Path, *, max_points: int = MAX_POINTS, radius: float = RADIUS
) -> None:
    """Write an .rrd file: the cloud as it was read, and the layout's boxes, which appear one by one along `time_sec`.

    Of more than `max_points` points a random subset is taken, the same one each time. The file appears whole or not at
    all. Boxes without finite numbers are left out. Raises SceneError.
    """
    need("rerun")
    check_rerun_ending(path)
    cloud = thinned(cloud, max_points)
    try:
        _check_room(path, cloud)
        with replacing(path) as temporary:
            _record(layout, cloud, temporary, radius)
    except (OSError, RuntimeError) as error:  # the SDK's own errors of writing are RuntimeErrors
        raise SceneError(
            f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}). "
            "Name a recording in a folder that exists and can be written to."
        ) from error


def _check_room(path: Path, cloud: PointCloud) -> None:
    """Raises OSError on a full disk, where the SDK (0.41) waits for ever for its writer instead of failing."""
    needed = len(cloud) * BYTES_OF_A_POINT + BYTES_BESIDE
    if (free := shutil.disk_usage(path.parent).free) < needed:
        raise OSError(errno.ENOSPC, f"No space left on device: about {needed:,} bytes are needed, {free:,} are free")


def check_rerun_ending(path: Path) -> None:
    """Raises SceneError for a recording that is no .rrd file."""
    if path.suffix.lower() != RERUN_ENDING:
        raise SceneError(f"{path}: a recording for Rerun is an {RERUN_ENDING} file; give it that ending.")


def _record(layout: Layout, cloud: PointCloud, path: Path, radius: float) -> None:
    import rerun as rr

    stream = _stream(rr)
    stream.save(str(path), default_blueprint=_blueprint())
    stream.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    colors = np.zeros((len(cloud), 3)) if cloud.colors is None else cloud.colors
    colors = np.rint(np.clip(colors, 0.0, 1.0) * 255).astype(np.uint8)
    stream.log("world/points", rr.Points3D(positions=cloud.points, colors=colors, radii=radius), static=True)
    set_seconds = _clock(rr, stream)
    with np.errstate(over="ignore"):
        boxes = [box for box in to_boxes(layout) if _finite(box)]
    for number, box in enumerate(boxes, start=1):
        set_seconds(number * STEP)
        stream.log(f"world/pred/{box.kind}/{box.id}", *_box(rr, box))
    if hasattr(stream, "flush"):
        stream.flush()
    stream.disconnect()  # closes the file


def _stream(rr: Any) -> Any:
    """A stream of its own: what the caller records elsewhere is not touched. Older versions have a function for it."""
    make = rr.new_recording if hasattr(rr, "new_recording") else rr.RecordingStream
    return make(application_id=APPLICATION)


def _clock(rr: Any, stream: Any) -> Callable[[float], None]:
    """Sets the time of what is logged next, in seconds; renamed in 0.23."""
    if hasattr(stream, "set_time"):
        return lambda seconds: stream.set_time(TIMELINE, duration=seconds)
    return lambda seconds: stream.set_time_seconds(TIMELINE, seconds)


def _blueprint() -> Any:
    import rerun.blueprint as rrb

    view = rrb.Spatial3DView(name="3D", origin="/world", background=[255, 255, 255])
    return rrb.Blueprint(view, collapse_panels=True)


def _box(rr: Any, box: OrientedBox) -> tuple[Any, Any]:
    """The centre stands in the pose, beside the rotation, not in the box as upstream has it: newer viewers turn a box's
    own centre by the pose too, and the box would swing about the origin. This way it is the same place in all."""
    half_sizes = [[edge / 2 for edge in box.scale]]
    pose = rr.InstancePoses3D(translations=[list(box.center)], mat3x3=[box.rotation])
    return rr.Boxes3D(half_sizes=half_sizes, labels=[box.label]), pose


def _finite(box: OrientedBox) -> bool:
    return bool(np.isfinite([*box.center, *box.scale, box.yaw]).all())
