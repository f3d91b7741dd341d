"""What a scene will need, said before the encoder runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.decode.cache import ITEM_BYTES
from runtime.manifest import EncoderSpec, Manifest
from runtime.points import CloudReport

TRANSIENT_COPIES = 2  # of the largest intermediate: itself, and the one made from it


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneReport:
    """The cloud as read, the sizes it has for the model, and the memory a run will take."""

    cloud: CloudReport
    voxels: int
    point_tokens: int
    prompt_tokens: int  # positions of the merged prompt
    positions: int  # with the new tokens that may follow, as far as the cache holds them
    capacity: int
    cache_bytes: int  # of the rows that these positions fill
    encoder_bytes: int  # estimate of the encoder's largest intermediates
    weight_bytes: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that say what to do."""
        return self.cloud.warnings

    def lines(self) -> list[str]:
        """For printing, without the warnings."""
        return [
            *self.cloud.lines(),
            f"prompt: {self.prompt_tokens} positions, with new tokens at most {self.positions} of {self.capacity}",
            f"memory: weights {self.weight_bytes / 1e6:,.0f} MB, cache {self.cache_bytes / 1e6:,.1f} MB, "
            f"encoder about {self.encoder_bytes / 1e6:,.0f} MB while it runs",
        ]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "cloud"}
        return {**self.cloud.to_json(), **facts}


def scene_report(
    cloud: CloudReport, voxel_counts: tuple[int, ...], prompt_tokens: int, max_new_tokens: int, manifest: Manifest
) -> SceneReport:
    """Put together what is known once the geometry is."""
    spec = manifest.language_model
    positions = min(manifest.cache.capacity, prompt_tokens + max_new_tokens - 1)  # the last token is not fed back
    row = 2 * spec.layers * spec.kv_heads * spec.head_dim * ITEM_BYTES[manifest.precision]
    weights = {manifest.files[file].bytes for file in manifest.weights.values()}
    return SceneReport(
        cloud=cloud,
        voxels=voxel_counts[0],
        point_tokens=voxel_counts[-1],
        prompt_tokens=prompt_tokens,
        positions=positions,
        capacity=manifest.cache.capacity,
        cache_bytes=positions * row,
        encoder_bytes=encoder_bytes(manifest.encoder, voxel_counts),
        weight_bytes=sum(weights),
    )


def encoder_bytes(spec: EncoderSpec, voxel_counts: tuple[int, ...]) -> int:
    """The largest float32 intermediate of any stage, twice: gathered neighbours [N, 27C], or scores [G, H, W, W]."""
    largest = 0
    for stage, count in enumerate(voxel_counts):
        width = min(count, spec.patch_sizes[stage])
        scores = -(-count // width) * spec.heads[stage] * width * width
        largest = max(largest, scores, count * 27 * spec.channels[stage])
    return TRANSIENT_COPIES * 4 * largest
