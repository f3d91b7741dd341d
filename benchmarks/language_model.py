"""One contender of `benchmarks.peers` in a process of its own: prefill and decode of one prompt of random point tokens.

python -m benchmarks.language_model --bundle BUNDLE          our runtime
python -m benchmarks.language_model --transformers MODEL     transformers, eager attention, dynamic cache, float32
python -m benchmarks.language_model --genai FOLDER           onnxruntime-genai; benchmarks.genai makes the folder
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import peak_memory_gb
from export.reference.cache_name import CACHE
from runtime.arrays import Array

Step = Callable[[Array], Array]  # token ids [1, 1] -> logits [1, V]
Start = Callable[[], tuple[Array, Step]]  # prefill: logits [1, V], and the step that goes on from there
TEXT_TOKENS = 220  # of the prompt with point tokens merged in


def our_runtime(folder: str, points: int, threads: int) -> Start:
    """Prefill and decode of a bundle, the encoder left out."""
    from runtime.bundle import Bundle
    from runtime.decode import Decoder
    from runtime.engines import open_backend
    from runtime.rope import rope_table

    bundle = Bundle.open(folder, verify=False)
    manifest, backend = bundle.manifest, open_backend("onnxruntime", threads=threads)
    table = rope_table(np.arange(manifest.cache.capacity), None, manifest.position.text)
    engines = (backend.load(bundle, graph) for graph in ("prefill", "decode"))
    decoder = Decoder(backend, *engines, manifest, table)
    ids, embeds, mask = prompt(manifest.language_model.hidden_size, points)
    rows = len(ids)
    cos, sin = (half[None, :rows] for half in table)
    arrays = {"input_ids": ids[None], "point_embeds": embeds[None], "point_mask": mask[None]}
    arrays |= {"cos_3d": cos, "sin_3d": sin, "cos_1d": cos, "sin_1d": sin, "lengths": np.array([rows], np.int32)}

    def start() -> tuple[Array, Step]:
        feeds = {name: backend.upload(array) for name, array in arrays.items()}
        logits, cache = decoder.start(feeds, [rows], rows)
        return logits, lambda token: decoder.step(token, cache)[:, -1]

    return start


def transformers_eager(model: str, points: int, threads: int) -> Start:
    """The same with transformers' own Qwen2 or Llama, as `generate` would call it."""
    import torch
    from transformers import DynamicCache

    from export.checkpoint import open_checkpoint
    from export.reference.language_model import build_language_model

    torch.set_num_threads(threads)
    checkpoint = open_checkpoint(model, vlm_pe=None)
    spec = checkpoint.config.language_model
    lm = build_language_model(checkpoint.config, checkpoint.float_tensor, attn_implementation="eager")
    ids, points_embeds, mask = prompt(spec.hidden_size, points)
    with torch.inference_mode():
        embeds = lm.model.embed_tokens(torch.from_numpy(ids).long())
        embeds[torch.from_numpy(mask)] = torch.from_numpy(points_embeds[mask])

    @torch.inference_mode()
    def start() -> tuple[Array, Step]:
        cache = DynamicCache()
        logits = lm(inputs_embeds=embeds[None], **{CACHE: cache}, use_cache=True, logits_to_keep=1).logits[:, -1]

        @torch.inference_mode()
        def step(token: Array) -> Array:
            out = lm(input_ids=torch.from_numpy(token).long(), **{CACHE: cache}, use_cache=True)
            return np.asarray(out.logits[:, -1])

        return logits.numpy(), step

    return start


def onnxruntime_genai(folder: str, points: int, threads: int) -> Start:
    """A folder that `benchmarks.genai` wrote, token by token, so that the tokens can be compared."""
    from benchmarks.genai import contender

    return contender(folder, points, threads)


CONTENDERS = {"bundle": our_runtime, "transformers": transformers_eager, "genai": onnxruntime_genai}


def prompt(hidden_size: int, points: int) -> tuple[Array, Array, Array]:
    """Random ids [S], point embeddings [S, C] and their mask [S], the same for every contender."""
    rng = np.random.default_rng(0)
    rows = TEXT_TOKENS + points
    ids = rng.integers(0, 1000, rows).astype(np.int32)
    embeds = rng.normal(0, 0.1, (rows, hidden_size)).astype(np.float32)
    mask = (np.arange(rows) >= 15) & (np.arange(rows) < 15 + points)
    return ids, embeds, mask


def measure(start: Start, tokens: int, repeats: int) -> dict[str, Any]:
    """Medians over the repeats, after one that is not counted; and the greedy tokens, for comparison."""
    prefill, decode = [], []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        logits, step = start()
        prefill.append(time.perf_counter() - began)
        chosen, steps = [int(logits.argmax())], []
        for _ in range(tokens):
            began = time.perf_counter()
            logits = step(np.array([[chosen[-1]]], np.int32))
            steps.append(time.perf_counter() - began)
            chosen.append(int(logits.argmax()))
        decode.append(statistics.median(steps))
        del step, logits  # with their cache, before the next one is made
    return {
        "prefill_ms": statistics.median(prefill[1:]) * 1e3,
        "decode_ms_per_token": statistics.median(decode[1:]) * 1e3,
        "peak_memory_gb": peak_memory_gb(),
        "tokens": chosen,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    contender = p.add_mutually_exclusive_group(required=True)
    for name in CONTENDERS:
        contender.add_argument(f"--{name}", type=Path)
    p.add_argument("--points", type=int, default=556)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--repeats", type=int, default=2)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    make, source = next((make, getattr(args, name)) for name, make in CONTENDERS.items() if getattr(args, name))
    print(json.dumps(measure(make(str(source), args.points, args.threads), args.tokens, args.repeats)))


if __name__ == "__main__":
    main()
