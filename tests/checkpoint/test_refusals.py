"""Checkpoints that cannot be exported, each with the sentence it gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import open_checkpoint
from runtime.errors import CheckpointError
from tests.checkpoint.edits import edit_config, edit_json, edit_tensors

Tiny = Callable[..., Path]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2', but spatiallm_qwen or spatiallm_llama"),
        ({"point_backbone": "scenescript"}, r"SpatialLM 1\.0 checkpoint \(SceneScript encoder\), which cannot be"),
        ({"point_backbone": "pointnet"}, "'point_backbone' is 'pointnet', but 'sonata' was expected"),
        ({"vlm_pe": "CCA_2DProj"}, "VLM_PE is 'CCA_2DProj', but only None and 3D_RoPE"),
        ({"vlm_pe": "3D_Sinusoidal"}, "VLM_PE is '3D_Sinusoidal', but only None and 3D_RoPE"),
        ({"vlm_pe": "3D_RoPE", "VLM_PE": "None"}, "contradict each other"),
        ({"vlm_pe": "3D_RoPE", "pcd_pe_merge_rule": "4D"}, "PCD_PE_Merge_Rule is '4D', but 3D_only or 3D_with_1D"),
        ({"pcd_theta": 0}, "'pcd_theta' is 0, but a number above 0"),
        ({"projector": "conv"}, "'projector' is 'conv', but 'linear' or 'mlp'"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu', but 'silu'"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"hidden_size": 0}, "'hidden_size' is 0, but an integer in 1"),
        ({"hidden_size": 255}, "'hidden_size' is 255, but a multiple of num_attention_heads"),
        ({"hidden_size": "256"}, "'hidden_size' is '256', but an integer"),
        ({"vocab_size": True}, "'vocab_size' is True, but an integer"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000, but an integer in 1 .. 1000"),
        ({"num_key_value_heads": 3}, "'num_key_value_heads' is 3, but a divisor"),
        ({"head_dim": 63}, "'head_dim' is 63, but an even head_dim"),
        ({"rms_norm_eps": -1}, "'rms_norm_eps' is -1, but a number above 0"),
        ({"rope_theta": float("inf")}, "'rope_theta' is inf, but a number above 0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_type is 'yarn', but only 'default' and 'llama3'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 32}}, "'low_freq_factor' is missing"),
        ({"rope_scaling": [1]}, r"'rope_scaling' is \[1\], but an object"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "'rope_theta' is 1000000.0, but the same as in rope_parameters"),
        (
            {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "'partial_rotary_factor' is 0.5, but 1.0",
        ),
        ({"point_token_id": 1000}, "'point_token_id' is 1000, but a token id in 0 .. 999"),
        ({"point_token_id": 997}, "are 997, 998, 997; they must differ"),
        ({"point_config": None}, "'point_config' is None, but an object"),
        ({"point_config__enable_rpe": True}, "'enable_rpe' is true"),
        ({"point_config__order": ["z", "peano"]}, "'order' is .*peano.*, but a list of curves out of z, z-trans"),
        ({"point_config__order": []}, "but a list of curves"),
        ({"point_config__enc_channels": [16, 32]}, r"'enc_channels' is \[16, 32\], but a list of 5 integers"),
        ({"point_config__enc_num_head": [3, 2, 4, 4, 8]}, "'enc_num_head' .* but divisors of enc_channels"),
        ({"point_config__enc_patch_size": [0] * 5}, "'enc_patch_size' .* but a list of 5 integers in 1"),
        ({"point_config__enc_depths": []}, "'enc_depths' is .* but a list of integers"),
        ({"point_config__stride": [2, 2, 2]}, "'stride' .* but a list of 4 integers"),
        ({"point_config__stride": [2, 2, 2, 4]}, "'stride' .* but 2 at every pooling"),
        ({"point_config__in_channels": 9}, "'in_channels' is 9, but 6"),
        ({"point_config__num_bins": 16}, "'num_bins' is 16, but an integer in 32 .. 65535"),
        ({"point_config__mlp_ratio": 0.5}, "'mlp_ratio' is 0.5, but an integer"),
    ],
    ids=str,
)
def test_config_is_refused(changeable: Tiny, changes: dict[str, Any], sentence: str) -> None:
    folder = edit_config(changeable(), **changes)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        open_checkpoint(folder)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"vlm_pe": "CCA_2DProj"}, "command line: VLM_PE is 'CCA_2DProj'"),
        ({"vlm_pe": "3D_RoPE", "merge_rule": "2D"}, "command line: PCD_PE_Merge_Rule is '2D'"),
        ({"variant": "PE-C"}, "variant 'PE-C' of the 3D encoding is not known; give PE-A or PE-B"),
        ({"pcd_theta": -1.0}, "command line: 'pcd_theta' is -1.0, but a number above 0"),
    ],
    ids=str,
)
def test_the_command_line_is_refused(tiny_checkpoint: Tiny, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(tiny_checkpoint(), **options)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "max_position_embeddings", "rope_theta", "model_type"])
def test_missing_keys_are_named(changeable: Tiny, key: str) -> None:
    with pytest.raises(CheckpointError, match=key):
        open_checkpoint(edit_config(changeable(), key))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"eos_token_id": 5000}, "'eos_token_id' is 5000, but one token id or a list of them, each in 0 .. 999"),
        ({"eos_token_id": "x"}, "'eos_token_id' is 'x'"),
        ({"temperature": 0.0}, "'temperature' is 0.0, but a number above 0"),
        ({"do_sample": "yes"}, "'do_sample' is 'yes', but true or false"),
        ({"top_k": 1.5}, "'top_k' is 1.5, but an integer"),
    ],
    ids=str,
)
def test_generation_settings_are_refused(changeable: Tiny, settings: dict[str, Any], sentence: str) -> None:
    folder = changeable()
    edit_json(folder / "generation_config.json", **settings)
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(folder)


def test_a_model_that_never_stops_is_refused(changeable: Tiny) -> None:
    folder = edit_config(changeable(), "eos_token_id")
    (folder / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match="a layout would never end"):
        open_checkpoint(folder)


def test_what_is_not_a_checkpoint(tmp_path: Path, changeable: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no such directory, and not a hub id"):
        open_checkpoint(tmp_path / "absent")
    folder = changeable()
    with pytest.raises(CheckpointError, match="a file, but the directory of a checkpoint"):
        open_checkpoint(folder / "config.json")
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not readable as JSON"):
        open_checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list, but a JSON object"):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        open_checkpoint(folder)


def test_a_hub_id_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"someone/nothing \(revision v1\): not a directory here, and the hub"):
        open_checkpoint("someone/nothing", revision="v1")


def test_weight_files_that_are_missing_or_broken(changeable: Tiny) -> None:
    folder = changeable()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file"):
        open_checkpoint(folder)
    weights.write_bytes(b"not tensors at all")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_checkpoint(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        open_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, which can run code"):
        open_checkpoint(folder)


def test_shards_that_are_missing_or_lied_about(changeable: Tiny) -> None:
    folder = changeable(shard_size=2_000_000)
    index = folder / "model.safetensors.index.json"
    stored = json.loads(index.read_text())
    first, *_, last = sorted(set(stored["weight_map"].values()))
    index.write_text(json.dumps({"weight_map": stored["weight_map"] | {"model.norm.weight": first}}))
    with pytest.raises(CheckpointError, match=rf"says that 'model\.norm\.weight' is in {first}, but it is not"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match="not the plain name of a file"):
        open_checkpoint(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="'weight_map' is missing or empty"):
        open_checkpoint(folder)
    index.write_text(json.dumps(stored))
    (folder / last).unlink()
    with pytest.raises(CheckpointError, match=f"{last}: this file of weights is missing"):
        open_checkpoint(folder)


def test_tokenizers_that_are_not_whole(changeable: Tiny) -> None:
    checkpoint = open_checkpoint(changeable())
    settings = checkpoint.folder / "tokenizer_config.json"
    edit_json(settings, chat_template=[{"name": "tools", "template": "T"}])
    with pytest.raises(CheckpointError, match="no chat template"):
        checkpoint.tokenizer_files()
    edit_json(settings, chat_template="T", eos_token=5)
    with pytest.raises(CheckpointError, match="'eos_token' is 5, not a token's text"):
        checkpoint.tokenizer_files()
    (checkpoint.folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no tokenizer\.json"):
        checkpoint.tokenizer_files()


def test_a_tensor_that_is_not_there_is_named(tiny_checkpoint: Tiny) -> None:
    with pytest.raises(CheckpointError, match=r"there is no tensor 'model\.nothing'"):
        open_checkpoint(tiny_checkpoint()).tensor("model.nothing")


def test_quantised_weights_are_refused(changeable: Tiny) -> None:
    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)

    checkpoint = open_checkpoint(edit_tensors(changeable(), quantise))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is stored as I8, expected F32, BF16 or F16"):
        checkpoint.verify()
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' is stored as I8"):
        checkpoint.tensor("model.norm.weight")
