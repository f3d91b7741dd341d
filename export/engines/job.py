"""What a child process is asked to build, and what it answers: lines of JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.engines.record import PlanRecord
from runtime.records import from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One graph to compile."""

    graph: str  # name of the plan
    key: str  # name of the engines' folder, which names GPU, TensorRT and precision
    source: str  # path of the ONNX file; its weights lie beside it
    source_sha256: str
    weights_sha256: str
    folder: str  # where the plan, the inspector's report and the log go
    precision: str
    profiles: dict[str, dict[str, tuple[int, ...]]]  # by name: letter -> smallest, likeliest, largest size
    opt_level: int
    workspace: int | None  # bytes; None: what is free, less a reserve
    sharing: int  # how many builds share the GPU's memory
    device: int
    timing_cache: str
    islands: tuple[str, ...]
    version_compatible: bool
    hardware_compatible: bool
    direct_io: bool = False
    plugins: str = ""  # path of the plugin library, where the graph needs it
    plugins_version: int = 0

    @property
    def plan(self) -> Path:
        return Path(self.folder) / f"{self.graph}.plan"

    @property
    def inspection(self) -> Path:
        return Path(self.folder) / f"{self.graph}.inspector.json"

    @property
    def log(self) -> Path:
        return Path(self.folder) / f"{self.graph}.log"

    @property
    def digest(self) -> str:
        """Of all that decides which kernels are timed."""
        places = {"source", "folder", "timing_cache", "device", "sharing", "plugins"}
        facts = {name: value for name, value in dataclasses.asdict(self).items() if name not in places}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def to_line(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Job:
        """Raises ValueError for a line that is no job."""
        job: Job = from_json(cls, json.loads(line), "job")
        return job


@dataclass(slots=True)
class Outcome:
    """What is known of a build; filled by the events of the child process."""

    record: PlanRecord | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    timing_saved: bool = False

    def take(self, event: dict[str, Any]) -> None:
        """Take what an event of the child says about the result."""
        kind = event.get("event")
        if kind == "plan":
            self.record = from_json(PlanRecord, event["record"], "plan")
        elif kind == "error":
            self.error = str(event["text"])
        elif kind == "note":
            self.notes.append(str(event["text"]))
        elif kind == "timing_cache":
            self.timing_saved = True
