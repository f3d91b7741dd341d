"""`python -m demo.rooms` and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.rooms import SPLITS, make_scan
from demo.rooms.__main__ import main
from runtime.layout import parse_layout
from runtime.points import read_point_cloud


@pytest.mark.parametrize("jobs", [1, 2])
def test_files_read_back(tmp_path: Path, capfd: pytest.CaptureFixture[str], jobs: int) -> None:
    folder = tmp_path / "new" / "rooms"
    assert (
        main(["--split", "validation", "--first", "7", "--count", "2", "--jobs", str(jobs), "--output", str(folder)])
        == 0
    )
    seeds = SPLITS["validation"][7:9]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{seed}{ending}" for seed in seeds for ending in (".ply", ".txt")
    )
    assert "2/2" in capfd.readouterr().err
    for seed in seeds:
        scan = make_scan(seed)
        cloud = read_point_cloud(folder / f"{seed}.ply")
        assert np.array_equal(cloud.points.astype(np.float32), scan.points)
        assert cloud.colors is not None
        assert np.array_equal(np.round(cloud.colors * 255), scan.colors)
        assert not cloud.warnings
        assert parse_layout((folder / f"{seed}.txt").read_text()) == scan.layout


def test_quiet_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "1", "--quiet", "--output", str(tmp_path)]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--count", "0"], "--count is 0, but a whole number from 1 was expected."),
        (["--first", "-1"], "--first is -1, but a whole number from 0 was expected."),
        (["--jobs", "0"], "--jobs is 0, but a whole number from 1 was expected."),
        (
            ["--first", "9999999", "--count", "2"],
            "beyond the 10,000,000 seeds of the split 'test'. Ask for fewer.",
        ),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert main([*options, "--output", str(tmp_path / "rooms")]) == 2
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "rooms").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file" / "rooms")]) == 2
    assert "cannot be made" in capfd.readouterr().err


def test_a_file_in_the_way_leaves_nothing_half_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "20000000.ply").mkdir()
    assert main(["--count", "1", "--quiet", "--output", str(tmp_path)]) == 2
    assert "20000000.ply: cannot be written" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20000000.ply", "20000000.txt"]
