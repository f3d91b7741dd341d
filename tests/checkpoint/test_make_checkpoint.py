"""The maker of random checkpoints: the same twice, sharded, a tokenizer that works, logits that are alive."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from export.checkpoint import Checkpoint, open_checkpoint
from export.make_checkpoint import main
from export.making.checkpoint import make_checkpoint
from export.modules import Encoder
from export.reference.cache_name import CACHE
from runtime.errors import CheckpointError
from runtime.points import encoder_inputs, grid_sample
from tests.scenes import room

Tiny = Callable[..., Path]
FAMILIES = ["qwen", "llama"]
CONTENT = (
    "<|point_start|><|point_pad|><|point_end|>Detect walls, doors, windows, boxes. The reference code is as followed: "
    "@dataclass\nclass Wall:\n    ax: int\n    ay: int\n    az: int\n    bx: int\n    by: int\n    bz: int\n"
    "    height: int\n    thickness: int"
)
RENDERED = {
    "qwen": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}


def prompt(checkpoint: Checkpoint) -> tuple[str, list[int]]:
    """The rendered prompt and its ids, through transformers' own tokenizer."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint.folder)
    system = checkpoint.tokenizer_files().system_message
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": CONTENT})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text, tokenizer.encode(text, add_special_tokens=False)


def language_model(checkpoint: Checkpoint) -> Any:
    """transformers' model with the checkpoint's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    facts = json.loads((checkpoint.folder / "config.json").read_text())
    facts = {key: value for key, value in facts.items() if key not in ("model_type", "architectures", "torch_dtype")}
    qwen = checkpoint.config.language_model.family == "qwen"
    model = Qwen2ForCausalLM(Qwen2Config(**facts)) if qwen else LlamaForCausalLM(LlamaConfig(**facts))
    weights = {name: checkpoint.float_tensor(name) for name in checkpoint.names() if name.startswith("model.")}
    model.load_state_dict(weights | {"lm_head.weight": checkpoint.head_weight()}, strict=True)
    return model.eval()


@torch.no_grad()
def greedy(model: Any, embeds: torch.Tensor, steps: int) -> tuple[list[int], torch.Tensor]:
    """(tokens, the lead of each over the second best) of a greedy continuation of embeds [1, S, C]."""
    out = model(inputs_embeds=embeds, use_cache=True)
    tokens, leads = [], []
    for _ in range(steps):
        best, ids = out.logits[0, -1].topk(2)
        tokens.append(int(ids[0]))
        leads.append(best[0] - best[1])
        out = model(input_ids=ids[None, :1], **{CACHE: out[CACHE]}, use_cache=True)
    return tokens, torch.stack(leads)


def with_points(model: Any, checkpoint: Checkpoint, count: int, seed: int) -> torch.Tensor:
    """The merged prompt [1, S, C] with random point tokens, half of what they are the same in all of them."""
    _, ids = prompt(checkpoint)
    text = model.model.embed_tokens(torch.tensor([ids])).detach()
    chance = torch.Generator().manual_seed(seed)
    width = text.shape[-1]
    points = torch.randn(1, count, width, generator=chance) + torch.randn(1, 1, width, generator=chance)
    start = ids.index(checkpoint.config.point_start_token_id)
    return torch.cat([text[:, : start + 1], points * text.std(), text[:, start + 2 :]], dim=1)


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_alive(tiny_checkpoint: Tiny, family: str, untied: bool) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(family, tied=not untied))
    model = language_model(checkpoint)
    embeds = with_points(model, checkpoint, 40 if untied else 300, seed=1)
    tokens, leads = greedy(model, embeds, steps=64)
    assert len(set(tokens)) >= 20, tokens
    assert leads.median() > 0.1
    assert not set(tokens[:8]) & set(checkpoint.config.generation.stop_token_ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_points_change_the_logits(tiny_checkpoint: Tiny, family: str) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(family))
    model = language_model(checkpoint)
    with torch.no_grad():
        a, b = (model(inputs_embeds=with_points(model, checkpoint, 40, seed)).logits[0, -1] for seed in (1, 2))
    assert (a - b).std() > 0.2 * a.std()


@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_point_tokens_are_as_large_as_text(tiny_checkpoint: Tiny, projector: str) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("qwen", projector=projector))
    voxels = grid_sample(room(1), checkpoint.config.encoder.num_bins)
    inputs = encoder_inputs(voxels, checkpoint.config.encoder)
    encoder = Encoder(checkpoint.config, checkpoint.float_tensor)
    with torch.no_grad():
        points = encoder({name: torch.as_tensor(array) for name, array in inputs.feeds.items()})
    text = checkpoint.float_tensor("model.embed_tokens.weight")
    assert points.square().mean().sqrt() == pytest.approx(text.std().item(), rel=0.3)
    assert points.std(dim=0).mean() > 0.3 * text.std()  # and they differ from each other


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_renders_the_familys_prompt(tiny_checkpoint: Tiny, family: str) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(family))
    text, ids = prompt(checkpoint)
    assert text == RENDERED[family].format(CONTENT)
    config = checkpoint.config
    start = ids.index(config.point_start_token_id)
    assert ids[start : start + 3] == [
        config.point_start_token_id,
        config.point_token_id,
        config.point_end_token_id,
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_decodes_what_it_encodes_and_every_id(tiny_checkpoint: Tiny, family: str) -> None:
    from tokenizers import Tokenizer

    checkpoint = open_checkpoint(tiny_checkpoint(family))
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_files().tokenizer_json))
    text = "wall_0=Wall(2,130,45,600,2,2,136,0)\nbbox_7=Bbox(sofa,1,2,3,4,5,6,7)\n  \u00e9 \u58c1 \U0001f6aa\r\n\n"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text)  # it learned something
    size = checkpoint.config.language_model.vocab_size
    assert tokenizer.get_vocab_size() == size
    assert all(tokenizer.id_to_token(i) for i in range(size))
    starts = tokenizer.encode("wall", add_special_tokens=True).ids
    assert (starts[0] == tokenizer.token_to_id("<|begin_of_text|>")) == (family == "llama")


@pytest.mark.parametrize(("family", "vocab_size"), [("qwen", 151936), ("llama", 128256)])
def test_the_real_vocabulary_has_the_published_ids(tmp_path: Path, family: str, vocab_size: int) -> None:
    from tokenizers import Tokenizer

    from export.making.tokenizer import write_tokenizer

    write_tokenizer(tmp_path, family, "real", vocab_size, seed=0)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    published = {"<|im_start|>": 151644, "<|im_end|>": 151645, "<|point_start|>": 151652, "<|point_pad|>": 151654}
    if family == "llama":
        published = {"<|begin_of_text|>": 128000, "<|start_header_id|>": 128006, "<|eot_id|>": 128009}
    for token, token_id in published.items():
        assert tokenizer.encode(token, add_special_tokens=False).ids == [token_id]
        assert tokenizer.decode([token_id], skip_special_tokens=True) == ""
    assert tokenizer.get_vocab_size() == vocab_size
    assert tokenizer.id_to_token(vocab_size - 1)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b = (make_checkpoint(tmp_path / name, seed=7) for name in "ab")
    names = [path.name for path in a.iterdir()]
    assert "model.safetensors" in names
    assert filecmp.cmpfiles(a, b, names, shallow=False) == (names, [], [])
    other = make_checkpoint(tmp_path / "c", seed=8)
    assert not filecmp.cmp(a / "model.safetensors", other / "model.safetensors", shallow=False)


def test_shards_hold_the_same_tensors(tiny_checkpoint: Tiny) -> None:
    whole = load_file(tiny_checkpoint("qwen") / "model.safetensors")
    folder = tiny_checkpoint("qwen", shard_size=2_000_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert not (folder / "model.safetensors").exists()
    split = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert split.keys() == whole.keys()
    assert all(torch.equal(split[name], whole[name]) for name in whole)
    assert all(shard.stat().st_size < 2_100_000 for shard in shards)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made"
    options = ["--family", "llama", "--untied", "--projector", "linear", "--dtype", "bfloat16", "--vlm_pe", "3D_RoPE"]
    assert main(["--output", str(folder), "--size", "tiny", "--seed", "3", *options]) == 0
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    assert checkpoint.config.vlm_pe == "3D_RoPE"
    assert checkpoint.config.projector == "linear"
    assert checkpoint.tensor("lm_head.weight").dtype == torch.bfloat16
    assert main(["--output", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m export.make_checkpoint: ")
    assert "not an empty directory. Give another --output" in said
    with pytest.raises(CheckpointError, match="not an empty directory"):
        make_checkpoint(folder / "config.json")
