"""Hints against the layout, batches of one size against batches as they come, steps, and going on from a state."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from demo.rooms import make_scan
from demo.training.batch import Batch, Maker, Question
from demo.training.config import write_config
from demo.training.entities import KINDS, entity_rows
from demo.training.hints import AIM, NEAR, STAGE
from demo.training.loss import Loss
from demo.training.model import new_model
from demo.training.pack import cleaned, pack
from demo.training.padding import fill_up, find_caps, fits
from demo.training.prompts import Prompts
from demo.training.report import read_run, table
from demo.training.step import EagerStep, Learner, tensors_of
from demo.training.store import RoomStore
from demo.training.trainer import Settings, Trainer, rate
from runtime.layout import translate

SEEDS = range(20_000_000, 20_000_003)
CPU = torch.device("cpu")
SETTINGS = Settings(
    mode="3D_with_1D", minutes=None, steps=4, stop_after=None, batch_size=1, points=1500, whole_from=0.99,
    learning_rate=1e-3, hints=1.0, validate_every=100, feeders=1, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pack(tmp_path_factory.mktemp("rooms"), SEEDS, 3, 3, 1, quiet=True)


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    model = new_model(write_config(tmp_path_factory.mktemp("config"), "3D_only"), CPU, seed=1)
    return Learner(model, Loss(Prompts(), 1024, CPU), CPU, hints=1.0)


@pytest.fixture(scope="module")
def maker(files: list[Path], learner: Learner) -> Maker:
    spec = learner.model.config.encoder
    chance = torch.Generator().manual_seed(0)
    return Maker(RoomStore.read(files, CPU), Prompts(), spec, learner.model.position, chance, points=2500)


@pytest.mark.parametrize("symmetry", [0, 3, 6])
def test_hints_are_where_the_layout_says(maker: Maker, symmetry: int) -> None:
    batch = replace(maker, chance=None).batch([Question(room=1, symmetry=symmetry), Question(room=2)])
    stage, last = batch.geometry.stages[STAGE], batch.geometry.last
    entities = maker.store.entities_of([(1, symmetry), (2, 0)])
    seen = 0
    for row in torch.randint(len(stage.coords), (400,), generator=torch.Generator().manual_seed(1)).tolist():
        point, scene, kind = stage.coords[row].numpy(), int(stage.scene[row]), int(batch.hints.kind[row])
        holding = [entity for entity in entities[scene].numpy() if entity[0] >= 0 and _holds(entity, point)]
        assert kind == (0 if not holding else int(min(holding, key=lambda e: e[6:].prod())[0]) + 1)
        if kind:
            entity = min(holding, key=lambda e: e[6:].prod())
            want = [*(entity[1:4] - point), *np.log(entity[6:]), entity[4], entity[5]]
            np.testing.assert_allclose(batch.hints.aim[row].numpy(), want, atol=1e-5)
            seen += 1
    assert seen > 20
    assert batch.hints.seen.shape == (len(last.coords), len(KINDS)) and batch.hints.aims.shape[-1] == AIM


def _holds(entity: np.ndarray, point: np.ndarray) -> bool:
    x, y, z = point - entity[1:4]
    along, across = x * entity[4] + y * entity[5], y * entity[4] - x * entity[5]
    return bool((np.abs([along, across, z]) <= entity[6:] / 2 + NEAR).all())


def test_tokens_see_what_their_voxels_see(maker: Maker) -> None:
    batch = maker.batch([Question(room=0), Question(room=2)])
    stages = batch.geometry.stages
    token = torch.arange(len(stages[STAGE].coords))
    for stage in stages[STAGE:-1]:
        assert stage.parent is not None
        token = stage.parent[token]
    want = torch.zeros_like(batch.hints.seen)
    for row, kind in zip(token.tolist(), batch.hints.kind.tolist(), strict=True):
        if kind:
            want[row, kind - 1] = 1
    assert torch.equal(batch.hints.seen, want) and want.sum() > 10


def test_entities_of_a_layout() -> None:
    scan = make_scan(SEEDS[1])
    rows = entity_rows(scan.layout)
    layout = scan.layout
    assert len(rows) == len(layout.doors) + len(layout.windows) + len(layout.boxes)
    door = rows[0]
    wall = next(wall for wall in layout.walls if wall.id == layout.doors[0].wall_id)
    yaw = math.atan2(wall.by - wall.ay, wall.bx - wall.ax)
    np.testing.assert_allclose(door[4:6], [math.cos(yaw), math.sin(yaw)], atol=1e-6)
    moved = entity_rows(translate(layout, (1.0, 2.0, 3.0)))
    np.testing.assert_allclose(moved[:, 1:4] - rows[:, 1:4], np.broadcast_to([1, 2, 3], (len(rows), 3)), atol=1e-5)


def test_a_filled_up_batch_teaches_the_same(maker: Maker, learner: Learner) -> None:
    batch = maker.batch([Question(room=0), Question(room=1, kind="object")])
    other = maker.batch([Question(room=2), Question(room=2, kind="arch")])
    caps = find_caps([batch, other], maker.encoder)
    assert fits(batch, caps) and not fits(batch, find_caps([_smaller(maker)], maker.encoder))
    full = fill_up(batch, caps)
    shapes = [tensor.shape for tensor in tensors_of(full)]
    assert shapes == [tensor.shape for tensor in tensors_of(fill_up(other, caps))]
    want = learner.backward(batch), learner._flat.clone()
    got = learner.backward(full), learner._flat
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1], want[1], rtol=1e-2, atol=1e-5 * float(want[1].abs().max()) + 1e-6)


class Forbids(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: shapes and branches that hang on numbers, and tensors from the host."""

    NAMES = (
        "_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "unique_consecutive", "_unique2",
        "unique_dim", "bincount", "lift_fresh", "is_nonzero", "equal", "normal_", "uniform_", "bernoulli_", "randperm",
    )  # fmt: skip

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.NAMES, name
        if name in ("index", "index_put_", "_index_put_impl_"):
            assert all(one is None or one.dtype != torch.bool for one in args[1]), "indexed by a mask"
        return func(*args, **(kwargs or {}))


def test_a_step_to_its_gradients_can_be_captured(maker: Maker, learner: Learner) -> None:
    batch = maker.batch([Question(room=0), Question(room=1)])
    full = fill_up(batch, find_caps([batch], maker.encoder))
    with Forbids():
        learner.backward(full)
    with Forbids(), pytest.raises(AssertionError, match=r"nonzero|repeat_interleave|lift_fresh|_local_scalar_dense"):
        maker.batch([Question(room=0)])


def _smaller(maker: Maker) -> Batch:
    return replace(maker, points=600).batch([Question(room=1, kind="arch")])


def test_steps_make_the_loss_smaller(files: list[Path], tmp_path: Path) -> None:
    model = new_model(write_config(tmp_path, "none"), CPU, seed=5)
    learner = Learner(model, Loss(Prompts(), 1024, CPU), CPU, hints=1.0)
    learner.rate.fill_(2e-3)
    maker = Maker(RoomStore.read(files, CPU), Prompts(), model.config.encoder, model.position,
                  torch.Generator().manual_seed(0), points=1200)  # fmt: skip
    step, batch = EagerStep(learner, 1), maker.batch([Question(room=0, kind="arch")])
    before = [tensor.clone() for tensor in model.tensors.values()]
    losses = [step(batch) for _ in range(12)]
    assert losses[-1][0] < 0.7 * losses[0][0] and losses[-1][2] < losses[0][2]
    changed = [not torch.equal(a, b) for a, b in zip(before, model.tensors.values(), strict=True)]
    assert sum(changed) >= len(changed) - 1  # k_proj's biases shift every score of a row alike and get no gradient


def test_an_update_can_be_undone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = new_model(write_config(tmp_path, "none"), CPU, seed=5)
    learner = Learner(model, Loss(Prompts(), 1024, CPU), CPU, hints=1.0)
    learner.rate.fill_(1e-3)
    start = [parameter.detach().clone() for parameter in learner.parameters]
    undo = learner.remembered()
    learner._flat.normal_()
    learner.update()
    undo()
    assert all(torch.equal(a, b) for a, b in zip(start, learner.parameters, strict=True))
    assert not any(bool(value.any()) for state in learner.optimizer.state.values() for value in state.values())
    learner.update()
    undo, kept = learner.remembered(), [parameter.detach().clone() for parameter in learner.parameters]
    moments = [value.clone() for state in learner.optimizer.state.values() for value in state.values()]
    learner.update()
    undo()
    assert all(torch.equal(a, b) for a, b in zip(kept, learner.parameters, strict=True))
    after = [value for state in learner.optimizer.state.values() for value in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, after, strict=True)) and float(after[0]) == 1


def test_an_interrupted_run_goes_on(files: list[Path], tmp_path: Path) -> None:
    by_split = {"train": files, "validation": files}
    whole = Trainer(SETTINGS, by_split, tmp_path / "whole", CPU, quiet=True)
    whole._finish = lambda *, done: {"done": done}  # type: ignore[method-assign]
    assert whole.run() == {"done": True} and whole.step == 4
    first = Trainer(replace(SETTINGS, steps=2), by_split, tmp_path / "parts", CPU, quiet=True)
    first._finish = lambda *, done: first._save() or {}  # type: ignore[method-assign, func-returns-value]
    first.run()
    second = Trainer(SETTINGS, by_split, tmp_path / "parts", CPU, quiet=True)
    assert second.step == 2 and second.learner.optimizer.param_groups[0]["lr"] is second.learner.rate
    for name, tensor in first.model.tensors.items():
        assert torch.equal(tensor, second.model.tensors[name])
    state = next(iter(second.learner.optimizer.state.values()))
    assert float(state["step"]) == 2


def test_a_run_leaves_a_checkpoint_curves_and_scores(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.training.score.LIMIT", 12)
    monkeypatch.setattr("demo.training.trainer.score_rooms", lambda *_: {"scenes": 3})
    Trainer(replace(SETTINGS, steps=1), {"train": files, "validation": files}, tmp_path, CPU, quiet=True).run()
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    line = json.loads((tmp_path / "curves.jsonl").read_text().splitlines()[0])
    assert line["step"] == 1 and set(line["validation"]) == {"loss", "cross_entropy", "hints"}
    facts = json.loads((tmp_path / "result.json").read_text())
    assert facts["done"] and (facts["rooms"], facts["device"]) == (3, "cpu")
    run = read_run(tmp_path)
    assert [one["step"] for one in run["curves"]] == [1] and "cross entropy" in table({"run": run})


def test_what_is_cut_off_while_it_is_scored_is_saved(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    by_split = {"train": files, "validation": files}
    trainer = Trainer(replace(SETTINGS, steps=1), by_split, tmp_path, CPU, quiet=True)
    monkeypatch.setattr(trainer, "validate", lambda: [0.0] * 3)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("demo.training.trainer.score_rooms", cut_off)
        trainer.run()
    assert (tmp_path / "checkpoint" / "model.safetensors").exists() and not (tmp_path / "result.json").exists()
    again = Trainer(replace(SETTINGS, steps=1), by_split, tmp_path, CPU, quiet=True)
    monkeypatch.setattr(again, "validate", lambda: [0.0] * 3)
    monkeypatch.setattr("demo.training.trainer.score_rooms", lambda *_: {"scenes": 3})
    assert again.step == 1 and again.run()["scores"] == {"scenes": 3}


def test_a_machine_without_shapely_keeps_its_run(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'shapely'", name="shapely")

    monkeypatch.setattr("demo.training.trainer.score_rooms", lacking)
    trainer = Trainer(replace(SETTINGS, steps=1), {"train": files, "validation": files}, tmp_path, CPU, quiet=True)
    monkeypatch.setattr(trainer, "validate", lambda: [0.0] * 3)
    assert trainer._finish(done=True)["scores"] == "needs the package shapely"
    assert json.loads((tmp_path / "result.json").read_text())["done"]


def test_the_rate_rises_and_falls() -> None:
    rates = [rate(progress) for progress in np.linspace(0, 1, 101)]
    top = int(np.argmax(rates))
    assert rates[0] == 0 and rates[top] == pytest.approx(1) and rates[-1] == pytest.approx(0.01)
    assert all(a < b for a, b in pairwise(rates[: top + 1])) and all(a > b for a, b in pairwise(rates[top:]))


def test_entities_are_packed_for_every_symmetry(files: list[Path]) -> None:
    store = RoomStore.read(files, CPU)
    scan = cleaned(make_scan(SEEDS[0]))
    want = entity_rows(translate(scan.layout, -scan.points.min(axis=0).astype(np.float64)))
    got = store.entities_of([(0, 0)])[0]
    np.testing.assert_allclose(got[: len(want)].numpy(), want, atol=1e-4)
    assert (got[len(want) :, 0] == -1).all()
