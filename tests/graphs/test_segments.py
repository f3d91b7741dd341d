"""The language model in segments, one after another, computes what the whole graphs compute."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from export.graph.segments import split, whole
from runtime.arrays import Array
from runtime.bundle import KEYS, PAST, ROWS, VALUES
from runtime.engines.plans import count_segments, segment_name
from tests.compare import EXACT, assert_close
from tests.exported import FAMILIES, Export, Exported
from tests.graphs.test_against_modules import decode_feeds, prefill_feeds, run_graph
from tests.graphs.test_shared import stacked

HANDED = "hidden."


def made(exported: Export, family: str, attention: str = "causal") -> Exported:
    return exported(family, "3D_RoPE", "3D_only", attention, segment_layers=1)


def run_segments(case: Exported, kind: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Logits, and the rows of all layers: keys first, then values."""
    known, keys, values = dict(feeds), [], []
    for number in range(count_segments(case.bundle.manifest)):
        name = segment_name(kind, number)
        known |= run_graph(case, name, {n: known[n] for n in inputs_of(case, name)})
        if number < count_segments(case.bundle.manifest) - 1:  # the head has no rows
            keys.append(known[KEYS])
            values.append(known[VALUES])
    return {"logits": known["logits"], ROWS: np.concatenate(keys + values, axis=2)}


def inputs_of(case: Exported, name: str) -> list[str]:
    model = onnx.load(case.bundle.graph(name), load_external_data=False)
    return [tensor.name for tensor in model.graph.input]


@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefill(exported: Export, family: str, attention: str) -> None:
    case = made(exported, family, attention)
    feeds = prefill_feeds(case, [40, 17, 33], seed=3)
    whole, parts = run_graph(case, "prefill", feeds), run_segments(case, "prefill", feeds)
    assert_close("logits", parts["logits"], whole["logits"], EXACT)
    assert_close("rows", parts[ROWS], stacked(whole, case.bundle.manifest.language_model), EXACT)


@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_decode(exported: Export, family: str, new: int) -> None:
    case = made(exported, family)
    spec = case.bundle.manifest.language_model
    feeds = decode_feeds(case, [37, 5], 48, new, 1e4, seed=4)
    whole = run_graph(case, "decode", feeds)
    bare = {name: array for name, array in feeds.items() if not name.startswith("past_key.")}
    parts = run_segments(case, "decode", bare | {PAST: stacked(feeds, spec, "past_")})
    assert_close("logits", parts["logits"], whole["logits"], EXACT)
    assert_close("rows", parts[ROWS], stacked(whole, spec), EXACT)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
@pytest.mark.parametrize("attention", ["causal", "full"])
def test_every_input_is_used(exported: Export, kind: str, attention: str) -> None:
    """TensorRT drops inputs that nothing reads, and the record would not be of its plan."""
    case = made(exported, "qwen", attention)
    for number in range(count_segments(case.bundle.manifest)):
        graph = onnx.load(case.bundle.graph(segment_name(kind, number)), load_external_data=False).graph
        read = {name for node in graph.node for name in node.input}
        assert {tensor.name for tensor in graph.input} <= read


def test_only_the_residual_stream_flows_between_segments(exported: Export) -> None:
    case = made(exported, "qwen")
    first, second, head = (inputs_of(case, segment_name("prefill", number)) for number in range(3))
    assert "input_ids" in first and "point_embeds" in first and not any(name.startswith(HANDED) for name in first)
    assert head == [f"{HANDED}2", "lengths"]
    assert f"{HANDED}1" in second and "input_ids" not in second and "point_embeds" not in second


@pytest.mark.parametrize(
    ("layers", "most", "sizes"),
    [
        (24, 4, [4] * 6),
        (16, 4, [4] * 4),
        (16, 6, [5, 6, 5]),
        (6, 4, [3, 3]),
        (4, 4, [4]),
        (1, 4, [1]),
        (2, 10**400, [2]),
    ],
)
def test_segments_are_few_and_alike(layers: int, most: int, sizes: list[int]) -> None:
    found = split(layers, most)
    assert [len(segment.range) for segment in found] == [*sizes, 0]
    assert [segment.head for segment in found] == [False] * len(sizes) + [True]
    assert [layer for segment in found for layer in segment.range] == list(range(layers))
    assert found[0].begins and not found[-1].begins
    assert all(one.after == other.before for one, other in itertools.pairwise(found))


def test_a_bundle_of_one_segment_has_no_graphs_of_it(exported: Export) -> None:
    assert count_segments(exported("qwen").bundle.manifest) == 0
    assert whole(2).begins and whole(2).head
