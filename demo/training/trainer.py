"""The training loop: thinned scans first and whole ones at the end, a warm-up and a cosine, a state to go on from."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from demo.training.batch import Maker, Question
from demo.training.config import write_config
from demo.training.feeder import Feeder, random_questions
from demo.training.loss import Loss
from demo.training.model import new_model
from demo.training.padding import find_caps
from demo.training.prompts import Prompts
from demo.training.score import score_rooms
from demo.training.step import EagerStep, GraphStep, Learner
from demo.training.store import RoomStore

WARM_UP = 0.03  # of the schedule
FLOOR = 0.01  # of the learning rate, at the end
LOOK = 8  # steps between two looks at whether it is over, on several GPUs
MEASURED = 24  # batches that tell how large batches are
STATE = "state.pt"
CURVES = "curves.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is trained and for how long: `minutes` of training time or `steps`."""

    mode: str
    minutes: float | None
    steps: int | None
    stop_after: float | None  # minutes
    batch_size: int
    points: int  # of a scan, about, until `whole_from`
    whole_from: float  # of the schedule: from here on scans are not thinned
    learning_rate: float
    hints: float  # weight of the hints' loss
    validate_every: int
    seed: int


class Trainer:
    """One run. `files` are packed rooms by split."""

    def __init__(
        self,
        settings: Settings,
        files: Mapping[str, Sequence[Path]],
        output: Path,
        device: torch.device,
        *,
        quiet: bool,
    ) -> None:
        self.settings, self.output, self.quiet = settings, output, quiet
        self.rank, self.ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = _join(self.rank, self.ranks, device)
        config = write_config(output / "checkpoint", settings.mode)
        prompts = Prompts()
        loss = Loss(prompts, config.language_model.vocab_size, self.device)
        torch.manual_seed(settings.seed)
        self.model = new_model(config, self.device, settings.seed)
        self.learner = Learner(self.model, loss, self.device, hints=settings.hints)
        chance = torch.Generator(self.device).manual_seed(settings.seed + 1000 * self.rank)
        train, validation = (RoomStore.read(files[name], self.device) for name in ("train", "validation"))
        self.maker = Maker(train, prompts, config.encoder, self.model.position, chance)
        self.validation = Maker(validation, prompts, config.encoder, self.model.position)
        self.step, self.seconds = 0, 0.0
        self._resume()

    def run(self) -> dict[str, Any]:
        """Train to the end of the schedule or to `stop_after`; the last facts."""
        began, before = time.perf_counter(), self.seconds
        with tqdm(total=100, unit="%", desc="Training", disable=self.quiet or self.rank > 0) as bar:
            for end, points in ((self.settings.whole_from, self.settings.points), (1.0, None)):
                if self.progress < end:
                    self._phase(end, replace(self.maker, points=points), began - before, before, bar)
        return self._finish(done=self.progress >= 1)

    def _phase(self, end: float, maker: Maker, began: float, before: float, bar: Any) -> None:
        """Train until the progress is `end`."""
        seed = self.settings.seed + 7919 * self.rank + self.step
        caps = self._caps(maker)
        feeder = Feeder(maker, self.settings.batch_size, seed, caps)
        step: EagerStep | GraphStep | None = None
        for batch in feeder:
            step = step or self._stepper(batch)
            self.seconds = time.perf_counter() - began
            if self._over(end, self.seconds - before):
                break
            self.learner.rate.fill_(self.settings.learning_rate * rate(self.progress))
            losses = step(batch)
            self.step += 1
            if self.step % self.settings.validate_every == 0 or self.step == 1:
                self._log(losses.tolist())
                bar.update(round(100 * self.progress - bar.n, 1))
        feeder.close()

    def _caps(self, maker: Maker) -> Any:
        """Fixed shapes are for graphs; the CPU takes batches as they come."""
        if self.device.type != "cuda":
            return None
        chance, rooms = random.Random(self.settings.seed), len(maker.store)
        sizes = (random_questions(chance, rooms, self.settings.batch_size) for _ in range(MEASURED))
        return find_caps((maker.batch(questions) for questions in sizes), maker.encoder)

    def _stepper(self, example: Any) -> EagerStep | GraphStep:
        if self.device.type != "cuda":
            return EagerStep(self.learner, self.ranks)
        try:
            return GraphStep(self.learner, self.ranks, example)
        except RuntimeError as error:  # a library that does what a capture cannot hold
            print(f"a step cannot be captured ({error}); its kernels are launched one by one", file=sys.stderr)
            return EagerStep(self.learner, self.ranks)

    @property
    def progress(self) -> float:
        """How much of the schedule is over, 0 to 1."""
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        return self.seconds / 60 / float(self.settings.minutes or 1)

    def _over(self, end: float, seconds: float) -> bool:
        """Whether to leave the loop; asked now and then, and for all ranks together, since asking makes them wait."""
        limit = self.settings.stop_after
        over = self.progress >= end or (limit is not None and seconds > 60 * limit)
        if self.ranks == 1:
            return over
        if self.step % LOOK:
            return False
        shared = torch.tensor([float(over), self.seconds], device=self.device)
        dist.broadcast(shared, 0)
        self.seconds = float(shared[1])
        return bool(shared[0])

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Losses over the validation rooms, scans as they are."""
        rooms = range(len(self.validation.store))
        size, total = self.settings.batch_size, torch.zeros(3, device=self.device)
        for first in range(0, len(rooms), size):
            batch = self.validation.batch([Question(room=room) for room in rooms[first : first + size]])
            total += self.learner.losses(batch) * len(batch.lengths)
        mean: list[float] = (total / len(rooms)).tolist()
        return mean

    def _log(self, losses: list[float]) -> None:
        if self.rank:
            return
        names = ("loss", "cross_entropy", "hints")
        facts = {name: round(value, 4) for name, value in zip(names, losses, strict=True)}
        mean = dict(zip(names, (round(value, 4) for value in self.validate()), strict=True))
        line = {"step": self.step, "seconds": round(self.seconds, 1), **facts, "validation": mean}
        with (self.output / CURVES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _finish(self, *, done: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {"settings": asdict(self.settings), "gpus": self.ranks, "steps": self.step}
        if self.rank == 0:
            self.model.save(self.output / "checkpoint", self.settings.mode)
            self._save()
            facts |= {"seconds": round(self.seconds, 1), "done": done, "validation": round(self.validate()[1], 4)}
            rooms = range(len(self.validation.store))
            facts["scores"] = score_rooms(self.model, self.validation, rooms)
            (self.output / "result.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if self.ranks > 1:
            dist.barrier()
            dist.destroy_process_group()
        return facts

    def _save(self) -> None:
        """Weights as they are; the optimizer's moments in bf16, which is as good and half as large."""
        moments = self.learner.optimizer.state_dict()
        small = {
            number: {name: _halved(name, value) for name, value in state.items()}
            for number, state in moments["state"].items()
        }
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "tensors": self.model.tensors,
            "heads": self.learner.heads.state_dict(),
            "optimizer": small,
            "settings": asdict(self.settings),
        }
        partial = self.output / f".{STATE}.partial"
        torch.save(state, partial)
        partial.replace(self.output / STATE)

    def _resume(self) -> None:
        path = self.output / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for name, tensor in self.model.tensors.items():
                tensor.copy_(state["tensors"][name])
        self.learner.heads.load_state_dict(state["heads"])
        moments = self.learner.optimizer.state_dict() | {"state": state["optimizer"]}
        self.learner.optimizer.load_state_dict(moments)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = self.learner.rate  # loading puts a copy in its place
        self.step, self.seconds = state["step"], state["seconds"]


def _halved(name: str, value: Tensor) -> Tensor:
    return value.bfloat16() if name.startswith("exp_avg") else value


def _join(rank: int, ranks: int, device: torch.device) -> torch.device:
    """This process's device, and its place among the others."""
    if ranks > 1:
        device = torch.device("cuda", rank)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if ranks > 1:
        dist.init_process_group("nccl", device_id=device)
    return device


def rate(progress: float) -> float:
    """Share of the learning rate: a straight warm-up, then a cosine down to FLOOR."""
    if progress < WARM_UP:
        return progress / WARM_UP
    along = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along))
