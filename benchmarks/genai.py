"""onnxruntime-genai as a contender of `benchmarks.peers`: its own builder makes the model, its own loop runs it.

python -m benchmarks.genai --model CHECKPOINT --output FOLDER [--precision fp32|int8|int4] [--points 556]
Needs the packages onnxruntime-genai and onnx-ir.

The model takes token ids and no embeddings, so the point embeddings of the prompt become additional rows of the
embedding, with ids from V on: the prompt is then the same as every other contender's. Their logits are cut off.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.language_model import TEXT_TOKENS, prompt
from runtime.arrays import Array

PRECISIONS = ("fp32", "int8", "int4")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
ROOM = 1024  # cache rows beyond the prompt


def missing() -> str | None:
    """One line that says what to install, or None where everything is there."""
    modules = {"onnxruntime_genai": "onnxruntime-genai", "onnx_ir": "onnx-ir"}
    absent = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    return f"pip install {' '.join(absent)}" if absent else None


def build(model: Path, output: Path, precision: str, points: int) -> None:
    """Write the model folder of onnxruntime-genai, with the token ids of the prompt beside it.

    `prune_lm_head` keeps prefill from computing the logits of all positions, which no other contender does.
    """
    with tempfile.TemporaryDirectory() as source:
        ids = write_plain_model(model, Path(source), points)
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", str(output)]
        choices = ["-p", precision, "-e", "cpu", "-c", f"{source}/cache", "--extra_options", "prune_lm_head=true"]
        result = subprocess.run([*builder, *choices], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"the model builder of onnxruntime-genai failed:\n{result.stdout}{result.stderr}")
    np.save(output / "prompt.npy", ids)


def write_plain_model(model: Path, folder: Path, points: int) -> Array:
    """A plain Qwen2ForCausalLM or LlamaForCausalLM directory, float32, and the ids [S] of the prompt in it."""
    import torch

    from export.checkpoint import open_checkpoint
    from export.reference.language_model import build_language_model

    checkpoint = open_checkpoint(model, vlm_pe=None)
    lm = build_language_model(checkpoint.config, checkpoint.float_tensor)
    ids, embeds, mask = prompt(lm.config.hidden_size, points)
    ids[mask] = lm.config.vocab_size + np.arange(points)
    rows = torch.from_numpy(embeds[mask])
    head = rows if lm.config.tie_word_embeddings else torch.zeros_like(rows)
    for module, more in ((lm.model.embed_tokens, rows), (lm.lm_head, head)):
        module.weight = torch.nn.Parameter(torch.cat([module.weight, more]), requires_grad=False)
    lm.tie_weights()
    lm.config.vocab_size += points
    lm.config.eos_token_id = lm.config.bos_token_id = 0  # the builder asks for them; the loop below does not stop
    lm.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (checkpoint.folder / name).exists():
            shutil.copy(checkpoint.folder / name, folder)
    return ids


def contender(folder: str, points: int, threads: int) -> Callable[[], tuple[Array, Callable[[Array], Array]]]:
    """Prefill and decode of a folder that `build` wrote, as `benchmarks.language_model` measures them."""
    import onnxruntime_genai

    if hasattr(onnxruntime_genai, "disable_telemetry_events"):  # not in every release
        onnxruntime_genai.disable_telemetry_events()
    ids = np.load(Path(folder) / "prompt.npy")
    if len(ids) != TEXT_TOKENS + points:
        built = len(ids) - TEXT_TOKENS
        raise SystemExit(f"{folder}: built for {built} point tokens, but asked for {points}. Build it again.")
    facts = json.loads((Path(folder) / "genai_config.json").read_text(encoding="utf-8"))
    vocabulary = facts["model"]["vocab_size"] - points
    config = onnxruntime_genai.Config(folder)
    session = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = onnxruntime_genai.Model(config)

    def start() -> tuple[Array, Callable[[Array], Array]]:
        params = onnxruntime_genai.GeneratorParams(model)
        params.set_search_options(do_sample=False, max_length=len(ids) + ROOM)
        generator = onnxruntime_genai.Generator(model, params)

        def feed(tokens: Array) -> Array:
            generator.append_tokens(tokens.astype(np.int32))
            logits: Array = generator.get_logits().reshape(1, -1)[:, :vocabulary]
            return logits

        return feed(ids), lambda token: feed(token[0])

    return start


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, type=Path)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--precision", choices=PRECISIONS, default="fp32")
    p.add_argument("--points", type=int, default=556)
    args = p.parse_args()
    if advice := missing():
        p.error(f"onnxruntime-genai is not complete: {advice}")
    build(args.model, args.output, args.precision, args.points)


if __name__ == "__main__":
    main()
