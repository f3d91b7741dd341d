"""Opening checkpoints of every kind, and the sentence for every one that cannot be exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import UNSET, open_checkpoint
from tests.checkpoint.edits import edit_config, edit_json, edit_tensors

Tiny = Callable[..., Path]


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tied": False},
        {"projector": "linear"},
        {"projector": None},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"shard_size": 2_000_000},
    ],
    ids=str,
)
def test_every_kind_opens(tiny_checkpoint: Tiny, family: str, options: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(family, **options))
    checkpoint.verify()
    config = checkpoint.config
    assert config.model_type == f"spatiallm_{family}"
    assert config.projector == (options.get("projector", "mlp") or "linear")
    assert config.language_model.qkv_bias == (family == "qwen")
    assert config.language_model.tie_word_embeddings == options.get("tied", True)
    assert ("lm_head.weight" in checkpoint.names()) != options.get("tied", True)
    assert (config.rope_scaling is not None) == (family == "llama")
    assert len(config.generation.stop_token_ids) == (1 if family == "qwen" else 3)
    stored = checkpoint.tensor("model.norm.weight")
    assert stored.dtype == getattr(torch, options.get("dtype", "float32"))
    widened = checkpoint.float_tensor("model.norm.weight")
    assert widened.dtype == torch.float32
    assert torch.equal(widened.to(stored.dtype), stored)
    head = checkpoint.head_weight()
    tied = torch.equal(head, checkpoint.float_tensor("model.embed_tokens.weight"))
    assert tied == options.get("tied", True)


def test_an_absent_projector_key_is_decided_by_the_tensors(changeable: Tiny) -> None:
    checkpoint = open_checkpoint(edit_config(changeable(), "projector"))  # the weights are an mlp's
    assert checkpoint.config.projector == "mlp"
    checkpoint.verify()


def test_rounding_the_encoder_is_an_option(tiny_checkpoint: Tiny) -> None:
    folder = tiny_checkpoint("qwen")
    plain = open_checkpoint(folder)
    rounded = open_checkpoint(folder, round_encoder_to_bf16=True)
    encoder, text = "point_backbone.input_proj.weight", "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(rounded.float_tensor(encoder), plain.tensor(encoder).bfloat16().float())
    assert not torch.equal(rounded.float_tensor(encoder), plain.float_tensor(encoder))
    assert torch.equal(rounded.float_tensor(text), plain.float_tensor(text))


def test_a_mix_of_types_opens(changeable: Tiny) -> None:
    types = [torch.float32, torch.bfloat16, torch.float16]
    mixed = {}

    def mix(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensors[name].to(types[i % 3]) for i, name in enumerate(tensors)})
        mixed.update(tensors)

    checkpoint = open_checkpoint(edit_tensors(changeable(), mix))
    checkpoint.verify()
    assert {tensor.dtype for tensor in mixed.values()} == set(types)
    for name, tensor in mixed.items():
        assert torch.equal(checkpoint.float_tensor(name), tensor.float())


def test_rope_parameters_of_transformers_5(changeable: Tiny) -> None:
    for family in ("qwen", "llama"):
        folder = changeable(family)
        classic = open_checkpoint(folder).config
        new = {"rope_type": "default"} | (classic.rope_scaling or {}) | {"rope_theta": classic.rope_theta}
        edit_config(folder, "rope_theta", "rope_scaling", rope_parameters=new)
        assert open_checkpoint(folder).config == classic


def test_the_old_spelling_of_the_rope_type(changeable: Tiny) -> None:
    folder = changeable("llama")
    classic = open_checkpoint(folder).config
    scaling = dict(classic.rope_scaling or {})
    scaling["type"] = scaling.pop("rope_type")
    assert open_checkpoint(edit_config(folder, rope_scaling=scaling)).config == classic


def test_one_curve_as_a_plain_string(changeable: Tiny) -> None:
    folder = edit_config(changeable(), point_config__order="hilbert")
    assert open_checkpoint(folder).config.encoder.order == ("hilbert",)


def test_the_command_line_wins_and_says_so(changeable: Tiny) -> None:
    folder = edit_config(changeable(), vlm_pe="3D_RoPE", pcd_pe_merge_rule="3D_with_1D")
    stored = open_checkpoint(folder)
    assert (stored.config.vlm_pe, stored.config.merge_rule) == ("3D_RoPE", "3D_with_1D")
    assert stored.notes == (
        "[Config] VLM_PE = 3D_RoPE (from config)",
        "[Config] PCD_PE_Merge_Rule = 3D_with_1D (from config)",
    )
    given = open_checkpoint(folder, vlm_pe="3D_RoPE", merge_rule="3D_only")
    assert given.config.merge_rule == "3D_only"
    assert given.notes == (
        "[Config] VLM_PE = 3D_RoPE (from command line)",
        "[Config] PCD_PE_Merge_Rule = 3D_only",
        "[Config] config.json has PCD_PE_Merge_Rule = 3D_with_1D; the command line wins",
    )
    for none in (None, "None", "none"):
        off = open_checkpoint(folder, vlm_pe=none)
        assert (off.config.vlm_pe, off.config.merge_rule) == (None, None)
        assert off.notes == (
            "[Config] VLM_PE = None (from command line)",
            "[Config] config.json has VLM_PE = 3D_RoPE; the command line wins",
        )


def test_the_notes_of_a_plain_checkpoint(tiny_checkpoint: Tiny) -> None:
    folder = tiny_checkpoint()
    assert open_checkpoint(folder, vlm_pe="3D_RoPE").notes == (
        "[Config] VLM_PE = 3D_RoPE (from command line)",
        "[Config] PCD_PE_Merge_Rule = 3D_only",
    )
    assert open_checkpoint(folder, vlm_pe=UNSET).notes == ("[Config] VLM_PE = None (default)",)
    assert "no effect, since VLM_PE = None" in open_checkpoint(folder, merge_rule="3D_only").notes[-1]
    assert "no effect: only 3D_RoPE of variant PE-B" in open_checkpoint(folder, pcd_theta=50.0).notes[-1]
    assert "revision v1 has no effect" in open_checkpoint(folder, revision="v1").notes[-1]


@pytest.mark.parametrize("none", ["None", "none", None])
def test_spellings_of_the_keys(changeable: Tiny, none: str | None) -> None:
    folder = edit_config(changeable(), VLM_PE="3D_RoPE", PCD_PE_Merge_Rule="3D_with_1D", pcd_theta=500)
    config = open_checkpoint(folder, variant="PE-B").config
    assert (config.vlm_pe, config.merge_rule, config.variant, config.pcd_theta) == (
        "3D_RoPE",
        "3D_with_1D",
        "PE-B",
        500.0,
    )
    assert open_checkpoint(folder, variant="PE-B", pcd_theta=7.0).config.pcd_theta == 7.0
    assert open_checkpoint(edit_config(folder, VLM_PE=none)).config.vlm_pe is None


def test_generation_settings(changeable: Tiny) -> None:
    folder = changeable()
    path = folder / "generation_config.json"
    edit_json(path, do_sample=True, temperature=0.6, top_k=10, top_p=0.95, repetition_penalty=1.1, eos_token_id=[5, 6])
    generation = open_checkpoint(folder).config.generation
    assert generation.stop_token_ids == (5, 6)
    assert (generation.do_sample, generation.temperature, generation.top_k) == (True, 0.6, 10)
    assert (generation.top_p, generation.repetition_penalty) == (0.95, 1.1)
    path.unlink()
    assert open_checkpoint(edit_config(folder, eos_token_id=7)).config.generation.stop_token_ids == (7,)


def test_tokenizer_files(changeable: Tiny) -> None:
    folder = changeable("llama")
    files = open_checkpoint(folder).tokenizer_files()
    assert files.tokenizer_json == folder / "tokenizer.json"
    assert (files.bos_token, files.eos_token, files.system_message) == ("<|begin_of_text|>", "<|eot_id|>", None)
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    token = {"content": "<|end_of_text|>", "special": True}
    edit_json(folder / "tokenizer_config.json", chat_template=named, eos_token=token)
    files = open_checkpoint(folder).tokenizer_files()
    assert (files.chat_template, files.eos_token) == ("D", "<|end_of_text|>")
    (folder / "chat_template.jinja").write_text("J")
    assert open_checkpoint(folder).tokenizer_files().chat_template == "J"
    assert open_checkpoint(changeable("qwen")).tokenizer_files().system_message == "You are a helpful assistant."


def test_a_hub_id_is_downloaded_with_its_revision(tiny_checkpoint: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert {"config.json", "*.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(allow_patterns)
        return str(tiny_checkpoint())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    checkpoint = open_checkpoint("someone/SpatialLM", revision="v1")
    assert asked == [("someone/SpatialLM", "v1")]
    assert (checkpoint.model, checkpoint.folder) == ("someone/SpatialLM", tiny_checkpoint())
