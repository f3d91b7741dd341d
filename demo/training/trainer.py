"""The training loop: AdamW, a warm-up and a cosine, bf16 arithmetic on a GPU, a state that can be gone on from."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from demo.training.batch import Batch, Maker, Question
from demo.training.config import write_config
from demo.training.feeder import Feeder
from demo.training.loss import Loss
from demo.training.model import DemoModel, decayed, new_model
from demo.training.prompts import Prompts
from demo.training.score import score_rooms
from demo.training.store import RoomStore

WARM_UP = 0.03  # of the schedule
FLOOR = 0.01  # of the learning rate, at the end
CLIP = 1.0  # of the gradient's length
DECAY = 0.05
LOOK = 8  # steps between two looks at whether it is over, on several GPUs
STATE = "state.pt"
CURVES = "curves.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is trained and for how long: `minutes` of training time or `steps`."""

    mode: str
    minutes: float | None
    steps: int | None
    stop_after: float | None
    batch_size: int
    learning_rate: float
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
        self.model = new_model(config, self.device, settings.seed)
        prompts = Prompts()
        self.loss = Loss(prompts, config.language_model.vocab_size, self.device)
        chance = torch.Generator(self.device).manual_seed(settings.seed + 1000 * self.rank)
        train, validation = (RoomStore.read(files[name], self.device) for name in ("train", "validation"))
        self.maker = Maker(train, prompts, config.encoder, self.model.position, chance)
        self.validation = Maker(validation, prompts, config.encoder, self.model.position)
        self.optimizer = _optimizer(self.model, self.device)
        self.step, self.seconds = 0, 0.0
        self._resume()

    def run(self) -> dict[str, Any]:
        """Train to the end of the schedule or to `stop_after`; the last facts."""
        feeder = Feeder(self.maker, self.settings.batch_size, self.settings.seed + 7919 * self.rank + self.step)
        began, before, shown = time.perf_counter(), self.seconds, 0.0
        with tqdm(total=100, unit="%", desc="Training", disable=self.quiet or self.rank > 0) as bar:
            for batch in feeder:
                self.seconds = before + time.perf_counter() - began
                if self._over(self.seconds - before):
                    break
                loss, exact = self._train(batch)
                if self.step % self.settings.validate_every == 0 or self.step == 1:
                    self._log({"loss": round(float(loss), 4), "cross_entropy": round(float(exact), 4)})
                    bar.set_postfix(loss=f"{float(loss):.3f}")
                    bar.update(round(100 * self.progress - shown, 1))
                    shown = round(100 * self.progress, 1)
        feeder.close()
        return self._finish(done=self.progress >= 1)

    @property
    def progress(self) -> float:
        """How much of the schedule is over, 0 to 1."""
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        return self.seconds / 60 / float(self.settings.minutes or 1)

    def _over(self, seconds: float) -> bool:
        """Whether to leave the loop; asked now and then, and for all ranks together, since asking makes them wait."""
        limit = self.settings.stop_after
        over = self.progress >= 1 or (limit is not None and seconds > 60 * limit)
        if self.ranks == 1:
            return over
        if self.step % LOOK:
            return False
        shared = torch.tensor([float(over), self.seconds], device=self.device)
        dist.broadcast(shared, 0)
        self.seconds = float(shared[1])
        return bool(shared[0])

    def _train(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate(self.progress)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, exact = self.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        return loss.detach(), exact

    def _average_gradients(self) -> None:
        if self.ranks == 1:
            return
        gradients = [p.grad for p in dict.fromkeys(self.model.parameters()) if p.grad is not None]
        flat = torch._utils._flatten_dense_tensors(gradients)
        dist.all_reduce(flat, op=dist.ReduceOp.AVG)
        for gradient, mean in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True):
            gradient.copy_(mean)

    @torch.no_grad()
    def validate(self) -> float:
        """Cross entropy over the validation rooms' answers, scans as they are."""
        rooms = range(len(self.validation.store))
        size, total = self.settings.batch_size, 0.0
        for first in range(0, len(rooms), size):
            batch = self.validation.batch([Question(room=room) for room in rooms[first : first + size]])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                total += float(self.loss(self.model, batch)[1]) * len(batch.lengths)
        return total / len(rooms)

    def _log(self, facts: dict[str, Any]) -> None:
        if self.rank:
            return
        facts = {"step": self.step, "seconds": round(self.seconds, 1), **facts, "validation": round(self.validate(), 4)}
        with (self.output / CURVES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def _finish(self, *, done: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {"settings": asdict(self.settings), "gpus": self.ranks, "steps": self.step}
        if self.rank == 0:
            facts |= {"seconds": round(self.seconds, 1), "done": done, "validation": round(self.validate(), 4)}
            self.model.save(self.output / "checkpoint", self.settings.mode)
            self._save()
            rooms = range(len(self.validation.store))
            facts["scores"] = score_rooms(self.model, self.validation, rooms)
            (self.output / "result.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if self.ranks > 1:
            dist.barrier()
            dist.destroy_process_group()
        return facts

    def _save(self) -> None:
        """Weights as they are; the optimizer's moments in bf16, which is as good and half as large."""
        moments = self.optimizer.state_dict()
        for state in moments["state"].values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].bfloat16()
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "tensors": self.model.tensors,
            "optimizer": moments,
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
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


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


def _optimizer(model: DemoModel, device: torch.device) -> torch.optim.Optimizer:
    matrices, others = decayed(model)
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=device.type == "cuda")


def rate(progress: float) -> float:
    """Share of the learning rate: a straight warm-up, then a cosine down to FLOOR."""
    if progress < WARM_UP:
        return progress / WARM_UP
    along = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along))
