"""Rooms made ahead: scans cleaned as at inference, and the answer in each of the eight turns, in files of some hundred.

A file is one .npz: points in half millimetres from the scan's smallest corner, colours, and answers as token ids.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from demo.rooms import Scan, make_scan, transform
from demo.training.entities import FIELDS, entity_rows
from demo.training.prompts import Prompts
from demo.training.tokens import NUM_BINS
from runtime.arrays import Array
from runtime.layout import Layout
from runtime.layout.entities import to_text
from runtime.layout.units import discretize, translate
from runtime.points import PointCloud, clean_up
from runtime.points.sampling import WORLD_SIZE

UNIT = 0.0005  # metres; 16 bits then reach 32 m in unsigned numbers
SYMMETRIES = tuple((quarters, mirror) for mirror in (False, True) for quarters in range(4))  # (quarter turns, mirrored)
_PROMPTS: list[Prompts] = []  # one for each worker


@dataclass(frozen=True, slots=True)
class Room:
    """points int32 [N, 3] in UNITs, colors uint8 [N, 3]; in each of SYMMETRIES the answer as token ids, and entities
    [8, E, FIELDS] in metres from the smallest corner."""

    seed: int
    points: Tensor
    colors: Tensor
    answers: tuple[tuple[int, ...], ...]
    entities: Tensor


def bins_text(scan: Scan, corner: Array) -> str:
    """The layout as the model says it: bins, counted from the cleaned cloud's smallest corner."""
    return to_text(discretize(translate(scan.layout, [-float(c) for c in corner]), NUM_BINS))


def cleaned(scan: Scan) -> Scan:
    """The scan after the pipeline's clean-up."""
    cloud = clean_up(PointCloud(scan.points.astype(np.float64), scan.colors / 255.0), WORLD_SIZE / NUM_BINS)
    assert cloud.colors is not None
    colors = np.rint(cloud.colors * 255).astype(np.uint8)
    return Scan(points=cloud.points, colors=colors, layout=scan.layout)


def pack_room(seed: int) -> dict[str, Array]:
    """One room's arrays, as they stand in a file."""
    if not _PROMPTS:
        _PROMPTS.append(Prompts())
    scan = cleaned(make_scan(seed))
    answers, entities = [], []
    for quarters, mirror in SYMMETRIES:
        turned = transform(scan, quarters, mirror)
        corner = turned.points.min(axis=0)
        answers.append(np.array(_PROMPTS[0].encode(bins_text(turned, corner)), np.int16))
        entities.append(entity_rows(translate(turned.layout, -corner.astype(np.float64))))
    low = scan.points.min(axis=0)
    return {
        "points": np.rint((scan.points - low) / UNIT).astype(np.uint16),
        "colors": scan.colors,
        "answers": np.concatenate(answers),
        "answer_lengths": np.array([len(answer) for answer in answers], np.int32),
        "entities": np.concatenate(entities),
        "entity_counts": np.array([len(entities[0])], np.int32),
    }


def pack_file(path: Path, seeds: Sequence[int]) -> Path:
    """Write the rooms of some seeds; a file that is there already is kept."""
    if path.exists():
        return path
    rooms = [pack_room(seed) for seed in seeds]
    arrays = {name: np.concatenate([room[name] for room in rooms]) for name in rooms[0]}
    arrays["counts"] = np.array([len(room["points"]) for room in rooms], np.int64)
    arrays["seeds"] = np.array(seeds, np.int64)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
    return path


def pack(folder: Path, split: range, count: int, per_file: int, jobs: int, *, quiet: bool = False) -> list[Path]:
    """Files with exactly the first `count` rooms of a split, those missing made by worker processes under a bar.

    Rooms that are there are not made again, whatever `count` and `per_file` they were made with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = _parts(_there(folder, split), count, per_file)
    paths = [folder / f"rooms-{split[first]:09}-{size}.npz" for first, size in parts]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        seeds = [split[first : first + size] for first, size in parts]
        with ProcessPoolExecutor(jobs) as pool:
            made = pool.map(pack_file, [paths[number] for number in missing], [seeds[number] for number in missing])
            for _ in tqdm(made, total=len(missing), unit="file", desc="Rooms", disable=quiet):
                pass
    return paths


def _there(folder: Path, split: range) -> set[tuple[int, int]]:
    """What a folder holds: number of a file's first room in the split, and how many rooms."""
    names = (re.fullmatch(r"rooms-(\d+)-(\d+)\.npz", path.name) for path in folder.iterdir())
    found = [(int(name[1]), int(name[2])) for name in names if name]
    return {(split.index(seed), size) for seed, size in found if seed in split}


def _parts(there: set[tuple[int, int]], count: int, per_file: int) -> list[tuple[int, int]]:
    """First room and size of each file: the largest that is there and fits, or a new one up to the next that is."""
    parts, at = [], 0
    while at < count:
        fitting = [size for first, size in there if first == at and size <= count - at]
        following = (first - at for first, _ in there if first > at)
        size = max(fitting, default=0) or min(per_file, count - at, *following)
        parts.append((at, size))
        at += size
    return parts


def read_rooms(path: Path) -> Iterator[Room]:
    """The rooms of a file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    points = torch.from_numpy(arrays["points"].astype(np.int32)).split(arrays["counts"].tolist())
    colors = torch.from_numpy(arrays["colors"]).split(arrays["counts"].tolist())
    entities = torch.from_numpy(arrays["entities"]).split((arrays["entity_counts"] * len(SYMMETRIES)).tolist())
    lengths = arrays["answer_lengths"].reshape(-1, len(SYMMETRIES))
    ends = np.cumsum(lengths.ravel()).reshape(lengths.shape)
    for i, seed in enumerate(arrays["seeds"].tolist()):
        spans = zip(ends[i] - lengths[i], ends[i], strict=True)
        answers = tuple(tuple(arrays["answers"][start:end].tolist()) for start, end in spans)
        yield Room(seed, points[i], colors[i], answers, entities[i].view(len(SYMMETRIES), -1, FIELDS))


def layout_of(text: str) -> Layout:
    """Parse an answer's text back into a layout in metres from the scan's corner."""
    from runtime.layout import parse_layout, undiscretize

    return undiscretize(parse_layout(text), NUM_BINS)
