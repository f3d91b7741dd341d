"""Packed rooms, turns, prompts and the batched language model, each against its plain twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from demo.rooms import Scan, make_scan, transform
from demo.score import summary
from demo.training.batch import Batch, Maker, Question, turned
from demo.training.config import write_config
from demo.training.language import generate
from demo.training.loss import Loss
from demo.training.model import DemoModel, new_model
from demo.training.pack import SYMMETRIES, UNIT, bins_text, cleaned, layout_of, pack, read_rooms
from demo.training.prompts import Prompts
from demo.training.store import RoomStore
from demo.training.tokens import build_tokenizer, render_prompt
from export.bundle import ExportOptions, write_bundle
from export.checkpoint import open_checkpoint
from export.modules import Decode, Prefill
from runtime.layout import Layout, parse_layout
from runtime.layout.entities import to_text
from runtime.layout.units import translate
from runtime.points import PointCloud, encoder_inputs, grid_sample
from runtime.prompt import Tokenizer, merge_prompt, user_content
from runtime.rope import normalize_coords, rope_table

SEEDS = range(20_000_000, 20_000_003)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RoomStore:
    return RoomStore.read(pack(tmp_path_factory.mktemp("rooms"), SEEDS, 3, 2, 1, quiet=True), CPU)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DemoModel:
    return new_model(write_config(tmp_path_factory.mktemp("config"), "3D_with_1D"), CPU, seed=1)


@pytest.fixture(scope="module")
def maker(store: RoomStore, model: DemoModel) -> Maker:
    return Maker(store, Prompts(), model.config.encoder, model.position)


@pytest.mark.parametrize("symmetry", range(8))
def test_turned_points_are_the_turned_scans(store: RoomStore, symmetry: int) -> None:
    scan = transform(cleaned(make_scan(SEEDS[0])), *SYMMETRIES[symmetry])
    points, _, scene = store.take([0])
    got = turned(points, scene, store.extents[:1], [symmetry]).double() * UNIT
    np.testing.assert_allclose(got.numpy(), scan.points - scan.points.min(axis=0), atol=UNIT)
    answer = Prompts().decode(store.answers[0][symmetry])
    assert answer == bins_text(scan, scan.points.min(axis=0))


def test_answers_read_back_as_the_layout(store: RoomStore) -> None:
    for number, seed in enumerate(SEEDS):
        scan = cleaned(make_scan(seed))
        pairs = [(layout_of(Prompts().decode(store.answers[number][0])), _moved(scan))]
        assert summary(pairs) | {"scenes": 1} == {"scenes": 1, "wall": [1.0, 1.0], **_all_right(pairs[0][1])}


def _moved(scan: Scan) -> Layout:
    return translate(scan.layout, [-float(low) for low in scan.points.min(axis=0)])


def _all_right(layout: Layout) -> dict[str, list[float | None]]:
    kinds = {"door": layout.doors, "window": layout.windows}
    found: dict[str, list[float | None]] = {
        name: [1.0, 1.0] if items else [None, None] for name, items in kinds.items()
    }
    return found | {"box": [1.0, 1.0]}


def test_the_batchs_voxels_are_the_pipelines(store: RoomStore, maker: Maker) -> None:
    batch = maker.batch([Question(room=1), Question(room=2, symmetry=5)])
    points, colors, _ = store.take([1])
    cloud = PointCloud(points.double().numpy() * UNIT, colors.numpy() / 255.0)
    voxels = grid_sample(cloud, 640)
    count = int(batch.geometry.counts[0])
    want = encoder_inputs(voxels, maker.encoder)
    assert count == want.voxel_counts[-1]
    np.testing.assert_allclose(batch.geometry.last.coords[:count].numpy(), want.patch_coords, atol=1e-5)
    own = batch.features[: len(voxels)].numpy()
    place = np.lexsort(voxels.grid.T[::-1])
    np.testing.assert_allclose(own, voxels.features[place], atol=1e-5)


def test_prompts_are_the_runtimes(maker: Maker, model: DemoModel, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(model.save(tmp_path / "checkpoint", "3D_with_1D"))
    manifest = write_bundle(checkpoint, tmp_path / "bundle", ExportOptions())
    tokenizer = Tokenizer.load(tmp_path / "bundle", manifest.prompt)
    batch = maker.batch([Question(room=0, kind="arch")], answers=False)
    count = int(batch.geometry.counts[0])
    prompt = merge_prompt(tokenizer.encode_prompt(user_content("arch")), count, manifest.prompt)
    assert batch.input_ids[0].tolist() == prompt.input_ids.tolist()
    assert batch.place.tolist() == np.flatnonzero(prompt.point_mask).tolist()
    positions = np.arange(prompt.length)
    coords = np.zeros((prompt.length, 3), np.float32)
    coords[prompt.point_mask] = normalize_coords(batch.geometry.last.coords.numpy()).coords
    text, points = (rope_table(positions, coords, spec) for spec in (manifest.position.text, manifest.position.points))
    for got, plain, spatial in zip((batch.tables.cos, batch.tables.sin), text, points, strict=True):
        want = np.where(prompt.point_mask[:, None], spatial, plain)
        np.testing.assert_allclose(got[0].numpy(), want, atol=1e-5)


def mask_of(batch: Batch) -> torch.Tensor:
    """[B, S] bool, true where a point token stands."""
    flat = torch.zeros(batch.input_ids.numel(), dtype=torch.bool)
    return flat.index_fill(0, batch.place, True).view_as(batch.input_ids)


def test_states_are_the_clean_prefills(maker: Maker, model: DemoModel) -> None:
    """Two sequences of different lengths in one batch, against the clean graph on each alone."""
    batch = maker.batch([Question(room=0), Question(room=1, kind="object")], answers=False)
    with torch.no_grad():
        points, _ = model.see(batch)
        embeds, states, at_point = model.embeds(batch, points), model.states(batch, points), mask_of(batch)
        for row, length in enumerate(batch.lengths.tolist()):
            cos, sin = batch.tables.cos[row : row + 1, :length], batch.tables.sin[row : row + 1, :length]
            want = Prefill(model.language_model)(
                batch.input_ids[row : row + 1, :length], embeds[row : row + 1, :length],
                at_point[row : row + 1, :length], cos, sin, cos, sin, torch.tensor([length]),
            )  # fmt: skip
            got = model.language_model.logits(states[row, length - 1])
            torch.testing.assert_close(got, want["logits"][0], rtol=1e-4, atol=1e-4)


def test_greedy_answers_are_the_clean_graphs(maker: Maker, model: DemoModel) -> None:
    batch = maker.batch([Question(room=0), Question(room=1, kind="object")], answers=False)
    with torch.no_grad():
        embeds, at_point = model.embeds(batch, model.see(batch)[0]), mask_of(batch)
        text = maker.position.text
        got = generate(model.language_model, embeds, batch.lengths, batch.tables, text, [maker.prompts.stop], 6)
        for row, length in enumerate(batch.lengths.tolist()):
            cos, sin = batch.tables.cos[row : row + 1, :length], batch.tables.sin[row : row + 1, :length]
            out = Prefill(model.language_model)(
                batch.input_ids[row : row + 1, :length], embeds[row : row + 1, :length],
                at_point[row : row + 1, :length], cos, sin, cos, sin, torch.tensor([length]),
            )  # fmt: skip
            layers = range(model.config.language_model.layers)
            names = [f"{kind}.{layer}" for kind in ("key", "value") for layer in layers]
            past, said = {f"past_{name}": out[name] for name in names}, [int(out["logits"].argmax())]
            while len(said) < 6 and said[-1] != maker.prompts.stop:
                tables = (torch.from_numpy(t)[None] for t in rope_table(np.array([length + len(said) - 1]), None, text))
                new = Decode(model.language_model)(
                    torch.tensor([[said[-1]]]), *tables, torch.tensor([len(past["past_key.0"])]), **past
                )
                past = {f"past_{name}": torch.cat([past[f"past_{name}"], new[name]]) for name in names}
                said.append(int(new["logits"].argmax()))
            assert got[row] == said


def test_the_loss_sees_answers_only_and_prefers_near_bins(maker: Maker, model: DemoModel) -> None:
    batch = maker.batch([Question(room=0)])
    loss = Loss(maker.prompts, 1024, CPU)
    token = maker.prompts.tokenizer.token_to_id
    assert batch.answers.target[0] == token("wall_") and batch.answers.target[-1] == maker.prompts.stop
    assert batch.input_ids.flatten()[batch.answers.before].tolist() == batch.answers.previous.tolist()

    class Says:
        """A model that is sure of one answer, some bins beside the right one."""

        def __init__(self, shift: int) -> None:
            self.language_model, self._shift = self, shift

        def states(self, batch: Batch, points: torch.Tensor) -> torch.Tensor:
            return batch.input_ids.roll(-1, 1)[..., None]

        def logits(self, ids: torch.Tensor) -> torch.Tensor:
            said = []
            for number in ids[:, 0].tolist():
                text = maker.prompts.tokenizer.id_to_token(number)
                said.append(token(str(int(text) + self._shift)) if text.isdigit() else number)
            return torch.nn.functional.one_hot(torch.tensor(said), 1024).float() * 12

    right, near, far = (float(loss(Says(shift), batch, batch.features)[0]) for shift in (0, 1, 3))  # type: ignore[arg-type]
    assert right < near < far


def test_answers_are_cut_to_what_was_asked(maker: Maker) -> None:
    layout = maker.store.answers[0][0]
    whole = parse_layout(maker.prompts.decode(layout))
    for kind, want in {"arch": (*whole.walls, *whole.doors, *whole.windows), "object": whole.boxes}.items():
        ids = maker.prompts.answer(layout, kind)
        assert ids[-1] == maker.prompts.stop
        assert tuple(parse_layout(maker.prompts.decode(ids[:-1])).entities()) == tuple(want)
    assert maker.prompts.answer(layout, "all") == [*layout, maker.prompts.stop]


def test_tokens_spell_any_text_and_bins_in_one() -> None:
    tokenizer = build_tokenizer()
    for text in (
        render_prompt("all"),
        "bbox_12=Bbox(sofa,1,-2,3.5,639)\n",
        "übrig <&> 0007 \t",
        to_text(make_scan(5).layout),
    ):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(len(tokenizer.encode(str(number)).ids) == 1 for number in range(640))
    assert len(tokenizer.encode(render_prompt("all"), add_special_tokens=False).ids) < 80


def test_packed_files_are_kept_and_read(tmp_path: Path) -> None:
    (path,) = pack(tmp_path, SEEDS, 1, 1, 1, quiet=True)
    before = path.stat().st_mtime_ns
    assert pack(tmp_path, SEEDS, 1, 1, 1, quiet=True) == [path] and path.stat().st_mtime_ns == before
    (room,) = read_rooms(path)
    assert room.seed == SEEDS[0] and room.points.min() == 0 and len(room.answers) == 8
