"""The self-check's comparisons on the CPU: alike passes, and what differs is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo.training.batch import Batch, Maker, Question
from demo.training.check import compare_convolutions, compare_steps, main
from demo.training.check_geometry import compare_geometry, unlike
from demo.training.config import write_config
from demo.training.convolution import PLAIN
from demo.training.loss import Loss
from demo.training.model import new_model
from demo.training.pack import pack
from demo.training.prompts import Prompts
from demo.training.step import EagerStep, Learner
from demo.training.store import RoomStore

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    folder = tmp_path_factory.mktemp("check")
    store = RoomStore.read(pack(folder, range(20_000_000, 20_000_002), 2, 2, 1, quiet=True), CPU)
    model = new_model(write_config(folder / "config", "none"), CPU, seed=0)
    return Maker(store, Prompts(), model.config.encoder, model.position, torch.Generator(), points=600)


def learner(folder: Path) -> Learner:
    torch.manual_seed(0)
    model = new_model(write_config(folder, "none"), CPU, seed=0)
    return Learner(model, Loss(Prompts(), 1024, CPU), CPU, hints=1.0)


def test_it_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "sees no CUDA device" in capsys.readouterr().err


def test_geometry_alike_and_not(maker: Maker) -> None:
    few = replace(maker, points=None)
    facts, said = compare_geometry(few, few, rooms=1)
    assert said == [] and facts["voxels"] > 10_000 and facts["voxels_differ"] == 0
    other = replace(few, encoder=replace(few.encoder, order=("z", "z-trans", "hilbert-trans", "hilbert")))
    facts, (sentence,) = compare_geometry(few, other, rooms=1)
    assert "The geometry of a batch on the GPU is not the CPU's" in sentence and facts["voxels_differ"] == 0


class Moved(RoomStore):
    """A store some of whose points have slipped over a border: the first few of a room lie somewhere else."""

    def __init__(self, store: RoomStore, moved: dict[int, int]) -> None:
        for name, value in vars(store).items():
            setattr(self, name, value)
        self._points = store._points.clone()
        for room, count in moved.items():
            chosen = torch.linspace(0, store._counts[room] - 1, count).long() + store._starts[room]
            self._points[chosen] = (self._points[chosen] + 250) % 2000


def test_a_few_other_voxels_are_counted_and_no_fault(maker: Maker) -> None:
    other = replace(maker, store=Moved(maker.store, {1: 3}))
    facts, said = compare_geometry(other, maker)
    assert said == [] and 0 < facts["voxels_differ"] <= 6 and facts["rooms"] == 2
    orders = ("z", "z-trans", "hilbert-trans", "hilbert")
    _, (sentence,) = compare_geometry(other, replace(maker, encoder=replace(maker.encoder, order=orders)))
    assert "numbers differ" in sentence  # the room whose voxels agree is compared none the less


def test_many_other_voxels_are_a_fault(maker: Maker) -> None:
    facts, (sentence,) = compare_geometry(replace(maker, store=Moved(maker.store, {0: 900})), maker)
    assert f"{facts['voxels_differ']:,} of {facts['voxels']:,} differ" in sentence
    _, (sentence,) = compare_geometry(replace(maker, store=Moved(maker.store, {0: 3, 1: 3})), maker)
    assert "In each of 2 rooms voxels differ" in sentence


def test_other_shapes_are_said(maker: Maker) -> None:
    other = replace(maker, encoder=replace(maker.encoder, patch_sizes=(64,) * 5))
    _, (sentence,) = compare_geometry(maker, other)
    assert "a tensor is [" in sentence and "the CPU's [" in sentence and ", 64]" in sentence


def test_numbers_that_differ() -> None:
    table = torch.arange(10)
    assert unlike([table], [table])[0] == 0
    assert unlike([table, table.float()], [table, table.float() + 1e-6])[0] == 0
    assert unlike([table, table], [table, table.index_fill(0, torch.tensor([3]), 0)]) == (1, 10)
    assert unlike([table.new_zeros(0)], [table.new_zeros(0)])[0] == 0


def test_convolutions_alike_and_not() -> None:
    assert compare_convolutions(CPU, PLAIN, rows=40) == []
    wrong = replace(PLAIN, weight_gradient=lambda grad, x, table: 1.02 * PLAIN.weight_gradient(grad, x, table))
    said = compare_convolutions(CPU, wrong, rows=40)
    assert len(said) == 5 and "0.02 off" in said[0]


def test_steps_alike_and_not(maker: Maker, tmp_path: Path) -> None:
    batches = [maker.batch([Question(room=room, kind="arch")]) for room in (0, 1)]
    runs = [(one, EagerStep(one, 1)) for one in (learner(tmp_path) for _ in range(3))]
    facts, said = compare_steps(runs, batches)  # type: ignore[arg-type]
    assert said == [] and facts["weights_apart"] == facts["by_chance"] == 0

    class Stale(EagerStep):
        """Reads the first batch for ever, as a graph does whose places are not written."""

        def __call__(self, batch: Batch) -> torch.Tensor:
            return super().__call__(batches[0])

    one = learner(tmp_path)
    (sentence,) = compare_steps([*runs_of(tmp_path), (one, Stale(one, 1))], batches)[1]
    assert "Captured steps are not the plain ones" in sentence


def runs_of(folder: Path) -> list[tuple[Learner, EagerStep]]:
    return [(one, EagerStep(one, 1)) for one in (learner(folder) for _ in range(2))]
