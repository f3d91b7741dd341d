"""What is asked of a scene, the scene made ready, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.arrays import Array
from runtime.decode import Sampling
from runtime.layout import Layout
from runtime.points import EncoderInputs, VoxelGrid
from runtime.prompt import MergedPrompt
from runtime.report import SceneReport

MAX_NEW_TOKENS = 4096  # upstream's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a scene."""

    detect_type: str = "all"
    categories: tuple[str, ...] = ()
    clean_up: bool = True
    max_new_tokens: int = MAX_NEW_TOKENS
    sampling: Sampling = field(default_factory=Sampling)
    scale: float | None = None  # metres per unit of the file; None: as the file says


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A scene made ready for the engines."""

    voxels: VoxelGrid
    inputs: EncoderInputs
    text_ids: Array  # int32 [L], the prompt before the point tokens are merged in
    prompt: MergedPrompt
    report: SceneReport
    milliseconds: dict[str, float]  # of the host's stages

    @property
    def patch_coords(self) -> Array:
        """float32 [P, 3], metres from the cloud's smallest corner."""
        return self.inputs.patch_coords


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A scene's layout in metres, and how it came about."""

    layout: Layout
    text: str  # as generated, in bins
    tokens: tuple[int, ...]  # generated ids, the stop token included
    stopped_by: str  # "stop token", "max_new_tokens" or "cache capacity"
    milliseconds: dict[str, float]  # by stage; prefill and decode are those of the whole batch
    report: SceneReport

    def __str__(self) -> str:
        return str(self.layout)
