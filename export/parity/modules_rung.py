"""The rung of the clean modules, in float32 on the CPU; needs no transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor as TorchTensor

from export.checkpoint import Checkpoint
from export.modules import Decode, Encoder, LanguageModel, Prefill
from runtime.bundle import Bundle
from runtime.engines.contract import Engine, Tensor, TensorSpec
from runtime.engines.host import HostMemory, HostTensor, host_array
from runtime.errors import BundleError
from runtime.pipeline import Pipeline, SceneSource
from runtime.rung import Plan, Recording, record_rung
from runtime.scene import Request


class TorchEngine:
    """A torch module as an engine of the contract."""

    inputs: Mapping[str, TensorSpec] = {}
    outputs: Mapping[str, TensorSpec] = {}
    limits: Mapping[str, int] = {}

    def __init__(self, name: str, module: Any) -> None:
        self.name, self._module = name, module

    @torch.inference_mode()
    def run(self, feeds: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        tensors = {name: torch.from_numpy(host_array(feed)) for name, feed in feeds.items()}
        results: dict[str, Tensor] = {}
        for name, value in self._call(tensors).items():
            given = (outputs or {}).get(name)
            if given is not None:
                host_array(given)[...] = value.numpy()
            results[name] = HostTensor(np.ascontiguousarray(value.numpy())) if given is None else given
        return results

    def _call(self, tensors: dict[str, TorchTensor]) -> dict[str, TorchTensor]:
        if self.name == "encoder":
            return {"point_tokens": self._module(tensors)}
        found: dict[str, TorchTensor] = self._module(**tensors)
        return found


class TorchBackend(HostMemory):
    """The clean modules behind the contract, so that all of the runtime around the graphs is the same."""

    name = "torch modules"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._model: LanguageModel | None = None

    def load(self, bundle: Bundle, graph: str) -> Engine:
        config, tensors = self._checkpoint.config, self._checkpoint.float_tensor
        if graph == "encoder":
            return TorchEngine(graph, Encoder(config, tensors))
        self._model = self._model or LanguageModel(config, tensors)
        if graph == "prefill":
            return TorchEngine(graph, Prefill(self._model, bundle.manifest.position.prefill_attention))
        return TorchEngine(graph, Decode(self._model))


def torch_pipeline(bundle: Bundle, checkpoint: Checkpoint) -> Pipeline:
    """The modules in float32, whatever the precision of the bundle.

    Raises BundleError for a checkpoint of other sizes, from which the bundle cannot have been exported.
    """
    for part in ("encoder", "language_model"):
        _check_sizes(bundle, checkpoint, part)
    manifest = dataclasses.replace(bundle.manifest, precision="fp32", dialect="portable", quantization=None)
    return Pipeline(dataclasses.replace(bundle, manifest=manifest), TorchBackend(checkpoint))


def _check_sizes(bundle: Bundle, checkpoint: Checkpoint, part: str) -> None:
    here, there = (dataclasses.asdict(getattr(owner, part)) for owner in (bundle.manifest, checkpoint.config))
    for name, value in here.items():
        if value != there[name]:
            raise BundleError(
                f"{bundle.folder}: {name} of its {part} is {value}, but that of {checkpoint.folder} is {there[name]}. "
                f"Give the checkpoint that the bundle was exported from: {bundle.manifest.model}"
            )


def record_modules(pipeline: Pipeline, source: SceneSource, request: Request, plan: Plan) -> Recording:
    """The rung of the clean modules."""
    return record_rung(pipeline, source, request, plan, "torch modules", torch=torch.__version__)
