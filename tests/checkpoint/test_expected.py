"""The tensors a checkpoint must hold: counts of the published models, and what verify() says about others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import ModelConfig, expected_tensors, open_checkpoint
from export.checkpoint.choices import Choices
from export.checkpoint.read_config import read_config
from export.making.configs import config_json
from runtime.errors import CheckpointError
from tests.checkpoint.edits import edit_config, edit_tensors

Tiny = Callable[..., Path]
Tensors = dict[str, torch.Tensor]


def real_config(folder: Path, family: str, projector: str, tied: bool = True) -> ModelConfig:
    facts = config_json(family, "real", dtype="float32", tied=tied, projector=projector, vlm_pe=None, merge_rule=None)
    (folder / "config.json").write_text(json.dumps(facts))
    return read_config(folder, (), Choices())[0]


def parameters(shapes: dict[str, tuple[int, ...]], *prefixes: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefixes))


@pytest.mark.parametrize(
    ("family", "projector", "language_model", "projected"),
    [
        ("qwen", "linear", 494_032_768, 459_648),
        ("qwen", "mlp", 494_032_768, 722_304),
        ("llama", "linear", 1_235_814_400, 1_050_624),
    ],
)
def test_published_parameter_counts(
    tmp_path: Path, family: str, projector: str, language_model: int, projected: int
) -> None:
    shapes = expected_tensors(real_config(tmp_path, family, projector))
    assert sum(name.startswith("point_backbone.") for name in shapes) == 454
    assert parameters(shapes, "point_backbone.") == 108_756_096
    assert parameters(shapes, "model.", "lm_head.") == language_model
    assert parameters(shapes, "point_proj.") == projected
    assert parameters(shapes, "") == 108_756_096 + language_model + projected


def test_an_untied_head_is_one_more_tensor(tmp_path: Path) -> None:
    tied = expected_tensors(real_config(tmp_path, "qwen", "mlp"))
    untied = expected_tensors(real_config(tmp_path, "qwen", "mlp", tied=False))
    assert untied == {**tied, "lm_head.weight": (151936, 896)}


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_language_model_tensors_are_those_of_transformers(changeable: Tiny, family: str, biases: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    extra = {"attention_bias": True, "mlp_bias": True} if biases else {}
    folder = edit_config(changeable(family), head_dim=32, **extra)
    config = open_checkpoint(folder).config
    facts = json.loads((folder / "config.json").read_text())
    facts = {key: value for key, value in facts.items() if key not in ("model_type", "architectures")}
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**facts)) if family == "qwen" else LlamaForCausalLM(LlamaConfig(**facts))
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    got = expected_tensors(config)
    assert {name: shape for name, shape in got.items() if name.startswith("model.")} == want


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).verify()
    return str(caught.value)


def test_verify_names_what_is_missing_extra_and_misshapen(changeable: Tiny) -> None:
    def change(tensors: Tensors) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(3, 4)
        tensors["point_proj.2.bias"] = torch.zeros(7)

    message = refusal(edit_tensors(changeable(), change))
    assert "model.layers.1.mlp.up_proj.weight [256, 256] is missing" in message
    assert "model.layers.2.mlp.up_proj.weight [3, 4] is not expected" in message
    assert "point_proj.2.bias is [7], expected [256]" in message
    assert "more" not in message


def test_verify_names_a_few_and_counts_the_rest(changeable: Tiny) -> None:
    message = refusal(edit_config(changeable(), num_hidden_layers=3))
    assert "model.layers.2.input_layernorm.weight [256] is missing" in message
    assert "and 7 more" in message  # 12 tensors in a Qwen layer, 5 of them named


def test_verify_tolerates_what_nobody_reads(changeable: Tiny) -> None:
    def change(tensors: Tensors) -> None:
        tensors["point_backbone.embedding.mask_token"] = torch.zeros(1, 16)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(32)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    checkpoint = open_checkpoint(edit_tensors(changeable(), change))
    checkpoint.verify()
    assert {"point_backbone.embedding.mask_token", "lm_head.weight"} <= set(
        checkpoint.names()
    )  # which it has looked at


def test_a_second_head_in_a_tied_checkpoint_must_be_the_embedding(changeable: Tiny) -> None:
    def change(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"][-1, -1] += 1

    message = refusal(edit_tensors(changeable(), change))
    assert "lm_head.weight [1000, 256] differs from model.embed_tokens.weight, although tie_word_embeddings" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"point_config__enc_depths": [2, 1, 1, 5, 1]}, "point_backbone.enc.enc4.block1"),
        (
            {"point_config__mlp_ratio": 2},
            "point_backbone.enc.enc0.block0.mlp.0.fc1.weight is [64, 16], expected [32, 16]",
        ),
        ({"projector": "linear"}, "point_proj.weight [256, 64] is missing"),
        ({"tie_word_embeddings": False}, "lm_head.weight [1000, 256] is missing"),
        ({"head_dim": 32}, "q_proj.weight is [256, 256], expected [128, 256]"),
    ],
    ids=str,
)
def test_verify_reads_every_size(changeable: Tiny, changes: dict[str, Any], named: str) -> None:
    assert named in refusal(edit_config(changeable(), **changes))
