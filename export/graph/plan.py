"""Which checkpoint tensors make which weights of the graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from runtime.manifest import EncoderSpec, LanguageModelSpec

Source = Callable[[str], torch.Tensor]  # name -> the checkpoint's tensor, float32


@dataclass(frozen=True, slots=True)
class PlannedWeight:
    """A weight of the graph: its source tensors stacked along their first axis, then viewed as `shape` if given."""

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...] | None = None

    def make(self, source: Source) -> torch.Tensor:
        parts = [source(name) for name in self.sources]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        return tensor if self.shape is None else tensor.reshape(self.shape)


def encoder_plan(spec: EncoderSpec, projector: str) -> Iterator[PlannedWeight]:
    """Weights of the encoder's body, then those of the projector (see `is_projector`)."""
    yield from _linear("point_backbone.embedding.stem.linear", "point_backbone.embedding.stem.norm")
    for stage in range(spec.stages):
        name = f"point_backbone.enc.enc{stage}"
        if stage > 0:
            yield from _linear(f"{name}.down.proj", f"{name}.down.norm.0")
        for index in range(spec.depths[stage]):
            yield from _block(f"{name}.block{index}", spec.channels[stage])
    yield from _linear("point_backbone.input_proj")
    yield from _linear(*(["point_proj.0", "point_proj.2"] if projector == "mlp" else ["point_proj"]))


def is_projector(name: str) -> bool:
    """The projector runs in the bundle's precision, the rest of the encoder in float32."""
    return name.startswith("point_proj.")


def language_model_plan(spec: LanguageModelSpec) -> Iterator[PlannedWeight]:
    """Weights that prefill and decode share. Products over the same input are stacked into one."""
    yield PlannedWeight("model.embed_tokens.weight", ("model.embed_tokens.weight",))
    for layer in range(spec.layers):
        name = f"model.layers.{layer}"
        yield _same(f"{name}.input_layernorm.weight")
        yield from _stacked(f"{name}.self_attn", "qkv_proj", ("q_proj", "k_proj", "v_proj"), spec.qkv_bias)
        yield from _stacked(f"{name}.self_attn", "o_proj", ("o_proj",), spec.output_bias)
        yield _same(f"{name}.post_attention_layernorm.weight")
        yield from _stacked(f"{name}.mlp", "gate_up_proj", ("gate_proj", "up_proj"), spec.mlp_bias)
        yield from _stacked(f"{name}.mlp", "down_proj", ("down_proj",), spec.mlp_bias)
    yield _same("model.norm.weight")
    if not spec.tie_word_embeddings:
        yield _same("lm_head.weight")


def _same(name: str) -> PlannedWeight:
    return PlannedWeight(name, (name,))


def _linear(*names: str) -> Iterator[PlannedWeight]:
    for name in names:
        yield _same(f"{name}.weight")
        yield _same(f"{name}.bias")


def _block(name: str, channels: int) -> Iterator[PlannedWeight]:
    kernel = f"{name}.cpe.0.weight"  # [out, kx, ky, kz, in]: a row holds the 27 neighbours in gather order
    yield PlannedWeight(kernel, (kernel,), (channels, 27 * channels))
    yield _same(f"{name}.cpe.0.bias")
    parts = ("cpe.1", "cpe.2", "norm1.0", "norm2.0", "attn.qkv", "attn.proj", "mlp.0.fc1", "mlp.0.fc2")
    yield from _linear(*(f"{name}.{part}" for part in parts))


def _stacked(prefix: str, name: str, parts: tuple[str, ...], bias: bool) -> Iterator[PlannedWeight]:
    for kind in ("weight", "bias") if bias else ("weight",):
        yield PlannedWeight(f"{prefix}.{name}.{kind}", tuple(f"{prefix}.{part}.{kind}" for part in parts))
