"""The reference as a whole: encode, prefill, decode, generate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from export.checkpoint.config import ModelConfig
from export.modules import Encoder
from export.reference.attention import PointRope
from export.reference.cache_name import CACHE
from export.reference.language_model import build_language_model
from export.reference.merge import Merged, merge_points, pad_batch
from export.reference.tables import point_table
from export.reference.verbose import is_verbose, report_coordinates
from runtime.errors import SceneError

LOWEST = torch.finfo(torch.float32).min


class Weights(Protocol):
    """What the reference needs of a checkpoint."""

    @property
    def config(self) -> ModelConfig: ...

    def float_tensor(self, name: str) -> Tensor: ...


@dataclass(slots=True)
class ReferenceCache:
    """Keys and values as transformers keeps them, and which of their rows are real. `decode` extends it in place."""

    layers: DynamicCache
    valid: Tensor  # [B, rows] bool, False where a shorter prompt was padded

    @property
    def lengths(self) -> Tensor:
        """Real rows of each sample, which is also its next position: [B] int64."""
        return self.valid.sum(dim=1)

    def key(self, layer: int) -> Tensor:
        """Rotated keys [B, K, rows, D] of a layer."""
        keys: Tensor = self.layers.layers[layer].keys
        return keys

    def value(self, layer: int) -> Tensor:
        """Values [B, K, rows, D] of a layer."""
        values: Tensor = self.layers.layers[layer].values
        return values


def build_reference(
    checkpoint: Weights, *, prefill_attention: str = "causal", attn_implementation: str = "eager"
) -> Reference:
    """The reference of a checkpoint, in float32.

    With `vlm_pe` None the language model is transformers' own, untouched. `prefill_attention="full"` lets every token
    of the prompt see every other one, as the original ran in its 3D modes. Raises SceneError where that is asked for
    without 3D RoPE.
    """
    if prefill_attention not in ("causal", "full"):
        raise SceneError(f"prefill_attention is {prefill_attention!r}; choose causal or full.")
    if prefill_attention == "full" and checkpoint.config.vlm_pe is None:
        raise SceneError("prefill_attention 'full' needs VLM_PE=3D_RoPE, but VLM_PE is None; choose causal.")
    return Reference(checkpoint, prefill_attention, attn_implementation)


class Reference:
    """The model as it was trained, in plain torch. `encoder` and `language_model` are open to tools."""

    def __init__(self, checkpoint: Weights, prefill_attention: str, attn_implementation: str) -> None:
        self.config = checkpoint.config
        self.full = prefill_attention == "full"
        self.spatial = checkpoint.config.vlm_pe is not None
        self.encoder = Encoder(checkpoint.config, checkpoint.float_tensor)
        self.language_model = build_language_model(
            checkpoint.config, checkpoint.float_tensor, attn_implementation=attn_implementation
        )

    @torch.inference_mode()
    def encode(self, feeds: Mapping[str, Any]) -> Tensor:
        """Point tokens [P, C] of one scene; `feeds` are the encoder graph's, arrays or tensors."""
        tokens: Tensor = self.encoder({name: torch.as_tensor(feed) for name, feed in feeds.items()})
        return tokens

    def prefill(
        self,
        input_ids: Sequence[Any],
        point_tokens: Sequence[Any],
        patch_coords: Sequence[Any],
    ) -> tuple[Tensor, ReferenceCache]:
        """Logits [B, V] of each sample's last valid position, and the cache.

        One entry per sample: ids [text] with one start and one end token, point tokens [P, C] and patch coordinates
        [P, 3] in metres; both None for a prompt without a cloud.
        """
        logits, cache = self.prefill_logits(input_ids, point_tokens, patch_coords)
        return logits[torch.arange(len(logits)), cache.lengths - 1], cache

    @torch.inference_mode()
    def prefill_logits(
        self,
        input_ids: Sequence[Any],
        point_tokens: Sequence[Any],
        patch_coords: Sequence[Any],
    ) -> tuple[Tensor, ReferenceCache]:
        """As `prefill`, with the logits [B, S, V] of every position (those of padding rows mean nothing)."""
        prompts = [self._merge(ids, tokens) for ids, tokens in zip(input_ids, point_tokens, strict=True)]
        embeds, lengths = pad_batch(prompts)
        points = self._points(prompts, patch_coords)
        valid = torch.arange(embeds.shape[1]) < lengths[:, None]
        cache = ReferenceCache(DynamicCache(), valid)
        with _attached(self.language_model, points):
            logits = self._run(cache, inputs_embeds=embeds)
        return logits, cache

    @torch.inference_mode()
    def decode(self, input_ids: Any, cache: ReferenceCache) -> Tensor:
        """Logits [B, T, V] after T more ids [B, T] of each sample; their rows enter the cache."""
        ids = torch.as_tensor(input_ids).long()
        first = cache.lengths[:, None]
        cache.valid = torch.cat([cache.valid, torch.ones_like(ids, dtype=torch.bool)], dim=1)
        return self._run(cache, input_ids=ids, position_ids=first + torch.arange(ids.shape[1]))

    def generate(
        self,
        input_ids: Sequence[Any],
        point_tokens: Sequence[Any],
        patch_coords: Sequence[Any],
        *,
        max_new_tokens: int,
        stop_token_ids: Sequence[int] = (),
    ) -> list[list[int]]:
        """Greedy token ids of each sample; a stop token ends a sample and is its last id."""
        logits, cache = self.prefill(input_ids, point_tokens, patch_coords)
        samples: list[list[int]] = [[] for _ in input_ids]
        for step in range(max_new_tokens):
            chosen = logits.argmax(dim=-1)  # [B]
            for sample, token in zip(samples, chosen.tolist(), strict=True):
                if not sample or sample[-1] not in stop_token_ids:
                    sample.append(token)
            if step + 1 == max_new_tokens or all(sample[-1] in stop_token_ids for sample in samples):
                break
            logits = self.decode(chosen[:, None], cache)[:, -1]
        return samples

    @contextmanager
    def record(self) -> Iterator[dict[str, Tensor]]:
        """Collect what passes inside: `q_proj.<layer>`, `k_proj.<layer>`, `v_proj.<layer>` (not rotated, heads not
        split), `attention.<layer>` (after the output projection) and `hidden.<layer>`, [B, T, width] each, the last
        call winning. Rotated keys are in the cache.
        """
        seen: dict[str, Tensor] = {}
        handles = []
        for i, layer in enumerate(self.language_model.model.layers):
            attention = layer.self_attn
            modules = {f"{name}.{i}": getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj")}
            modules |= {f"attention.{i}": attention.o_proj, f"hidden.{i}": layer}
            handles += [module.register_forward_hook(_keep(seen, name)) for name, module in modules.items()]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _merge(self, input_ids: Any, point_tokens: Any) -> Merged:
        ids = torch.as_tensor(input_ids).long()
        embeds = self.language_model.model.embed_tokens(ids)
        tokens = None if point_tokens is None else torch.as_tensor(point_tokens)
        return merge_points(self.config, ids, embeds, tokens)

    def _points(self, prompts: Sequence[Merged], patch_coords: Sequence[Any]) -> tuple[PointRope, ...]:
        """The 3D tables of the batch: each sample has its own; none without 3D RoPE."""
        if not self.spatial:
            return ()
        if is_verbose():
            print(f"[3D_RoPE] Initialized with PCD_PE_Merge_Rule={self.config.merge_rule}")
        pairs = enumerate(zip(prompts, patch_coords, strict=True))
        tables = [self._point_rope(i, prompt, coords) for i, (prompt, coords) in pairs if prompt.end > prompt.start]
        return tuple(table for table in tables if table is not None)

    def _point_rope(self, sample: int, prompt: Merged, patch_coords: Any) -> PointRope | None:
        count = prompt.end - prompt.start
        if patch_coords is None or len(patch_coords) != count:
            found = "none" if patch_coords is None else str(len(patch_coords))
            raise SceneError(
                f"sample {sample}: {count} point tokens, but {found} patch coordinates; "
                f"3D RoPE needs one for each. Give those of the same cloud."
            )
        coords = torch.as_tensor(patch_coords).float()
        table = point_table(self.config, coords, prompt.start)
        if table is None:
            return None
        if is_verbose():
            report_coordinates(coords)
        return PointRope(sample=sample, start=prompt.start, end=prompt.end, cos_3d=table[0], sin_3d=table[1])

    def _run(self, cache: ReferenceCache, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.language_model(
            **{CACHE: cache.layers}, use_cache=True, attention_mask=self._mask(cache), **inputs
        ).logits
        return logits

    def _mask(self, cache: ReferenceCache) -> Tensor:
        """[B, rows] for transformers' own attention; the additive [B, 1, T, rows] for the replaced one, which knows
        no causality of its own.
        """
        if not self.spatial:
            return cache.valid.long()
        rows = cache.valid.shape[1]
        past = cache.layers.get_seq_length()
        visible = cache.valid[:, None, None, :].expand(-1, 1, rows - past, -1)
        if past or not self.full:
            visible = visible & torch.ones(rows, rows, dtype=torch.bool).tril()[past:]
        return torch.zeros(visible.shape).masked_fill(~visible, LOWEST)


@contextmanager
def _attached(model: nn.Module, points: tuple[PointRope, ...]) -> Iterator[None]:
    """Give the point tables to every layer for one call."""
    if not points:
        yield
        return
    attentions = [layer.self_attn for layer in model.model.layers]  # type: ignore[union-attr]
    try:
        for attention in attentions:
            attention.points = points
        yield
    finally:
        for attention in attentions:
            attention.points = ()


def _keep(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # A copy: the literal form writes the turned point tokens into the projections.
        seen[name] = (output[0] if isinstance(output, tuple) else output).clone()

    return hook
