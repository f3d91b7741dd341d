"""The training loop: thinned scans first and whole ones at the end, a warm-up and a cosine, a state to go on from."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from demo.training.batch import Batch, Maker, Question
from demo.training.config import write_config
from demo.training.feeder import Feeder, random_questions
from demo.training.loss import Loss
from demo.training.model import new_model
from demo.training.padding import find_caps
from demo.training.prompts import Prompts
from demo.training.score import score_rooms
from demo.training.step import EagerStep, GraphStep, Learner
from demo.training.store import RoomStore

WARM_UP = 0.04  # of the schedule
FLOOR = 0.01  # of the learning rate, at the end
LOOK = 8  # steps between two looks at whether it is over, on several GPUs
MEASURED = 24  # batches that tell how large batches are
STATE = "state.pt"
CURVES = "curves.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is trained and for how long: `minutes` of training, without what goes before it, or `steps`."""

    mode: str
    minutes: float | None
    steps: int | None
    stop_after: float | None  # minutes since the trainer was made
    batch_size: int
    points: int  # of a scan, about, until `whole_from`
    whole_from: float  # of the schedule: from here on scans are not thinned
    learning_rate: float
    hints: float  # weight of the hints' loss
    validate_every: int
    feeders: int  # threads that make batches
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
        self._made = time.perf_counter()
        self.settings, self.output, self.quiet = settings, output, quiet
        self.rank, self.ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = _join(self.rank, self.ranks, device)
        # One rank writes the folder: another could read a file that is just being written.
        folder = output / "checkpoint" if self.rank == 0 else Path(tempfile.mkdtemp())
        config = write_config(folder, settings.mode)
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
        with tqdm(total=100, unit="%", desc="Training", disable=self.quiet or self.rank > 0) as bar:
            for end, points in ((self.settings.whole_from, self.settings.points), (1.0, None)):
                if self.progress < end:
                    self._phase(end, replace(self.maker, points=points), bar)
                if self.progress < end:  # stopped before
                    break
        return self._finish(done=self.progress >= 1)

    def _phase(self, end: float, maker: Maker, bar: Any) -> None:
        """Train until the progress is `end`."""
        seed, settings = self.settings.seed + 7919 * self.rank + self.step, self.settings
        with Feeder(maker, settings.batch_size, seed, self._caps(maker), settings.feeders) as feeder:
            self._train(end, feeder, iter(feeder), bar)

    def _train(self, end: float, feeder: Feeder, batches: Iterator[Batch], bar: Any) -> None:
        first = next(batches)
        with feeder.paused():
            step = self._stepper(first)
        began = time.perf_counter() - self.seconds  # compiling and capturing are no part of the schedule
        for batch in chain([first], batches):
            if self._over(end, began):
                break
            self.learner.rate.fill_(self.settings.learning_rate * rate(self.progress))
            losses = step(batch)
            self.step += 1
            if self.step % self.settings.validate_every == 0 or self.step == 1:
                self._log(losses.tolist())
                bar.update(round(100 * self.progress - bar.n, 1))

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

    def _over(self, end: float, began: float) -> bool:
        """Whether to leave the loop. Several ranks look at the first one's clock, now and then, since that makes them
        wait; between two looks it stands still, so that all have the same learning rate."""
        if self.ranks > 1 and self.step % LOOK:
            return False
        self.seconds, limit = time.perf_counter() - began, self.settings.stop_after
        over = self.progress >= end or (limit is not None and time.perf_counter() - self._made > 60 * limit)
        if self.ranks == 1:
            return over
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
        if self.step > 1:  # what ends without a word, for want of time, can go on from here
            self._save()

    def _finish(self, *, done: bool) -> dict[str, Any]:
        on = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        facts: dict[str, Any] = {"settings": asdict(self.settings), "rooms": len(self.maker.store), "device": on}
        facts |= {"torch": torch.__version__, "gpus": self.ranks, "steps": self.step}
        if self.rank == 0:  # the checkpoint first: scores take a while, and a call's time may be over before
            self.model.save(self.output / "checkpoint", self.settings.mode)
            self._save()
            facts |= {"seconds": round(self.seconds, 1), "done": done, "validation": round(self.validate()[1], 4)}
            facts["scores"] = self._scores()
            (self.output / "result.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if self.ranks > 1:
            dist.barrier()
            dist.destroy_process_group()
        return facts

    def _scores(self) -> Any:
        """F1 over the validation rooms; a machine that lacks what scores need has trained none the worse."""
        try:
            return score_rooms(self.model, self.validation, range(len(self.validation.store)))
        except ModuleNotFoundError as error:
            return f"needs the package {error.name}"

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
    device = prepare(device)
    if ranks > 1:
        dist.init_process_group("nccl", device_id=device)
    return device


def prepare(device: torch.device) -> torch.device:
    """The device with its number, current, and its libraries as training wants them."""
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        # On Hopper torch prefers cuDNN's attention, which plans anew for every shape: validation has many.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def rate(progress: float) -> float:
    """Share of the learning rate: a straight warm-up, then a cosine down to FLOOR."""
    if progress < WARM_UP:
        return progress / WARM_UP
    along = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along))
