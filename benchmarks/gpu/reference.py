"""The case for `benchmarks.gpu.engines`: seeded inputs, and what our torch modules make of them in float32.

python -m benchmarks.gpu.reference --model CHECKPOINT --output ref.npz

Products are full float32 (no TF32), weights as the checkpoint stores them, widened. One part compares the modules with
transformers' own Qwen2 or Llama. Beside the .npz lies a .json with what was found; the last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from benchmarks.gpu.case import prefill_inputs, scene_feeds, write_case
from benchmarks.gpu.compare import closeness, margins
from benchmarks.gpu.report import Facts, Report, model_facts
from export.checkpoint import open_checkpoint
from export.checkpoint.choices import UNSET
from export.modules import Decode, Encoder, LanguageModel, Prefill
from export.reference.cache_name import CACHE
from export.reference.language_model import build_language_model
from export.rope import position_spec
from runtime.arrays import Array
from runtime.rope import rope_table

CROSS_CHECKED = 8  # forced steps that transformers computes too


class Reference:
    """The modules on a device, and a cache [2L, M, 1, K, D] that they fill."""

    def __init__(self, args: argparse.Namespace) -> None:
        given = {} if args.vlm_pe is UNSET else {"vlm_pe": args.vlm_pe}
        self.checkpoint = open_checkpoint(args.model, merge_rule=args.merge_rule, **given)
        self.device, self.config = torch.device(args.device), self.checkpoint.config
        self.spec, self.position = self.config.language_model, position_spec(self.config, args.prefill_attention)
        model = LanguageModel(self.config, self.tensor)
        self.prefill, self.decode = Prefill(model, args.prefill_attention), Decode(model)
        self.inputs = prefill_inputs(self.spec, self.position, args.prompt, args.points, args.precision)
        self.rows = args.prompt + max(args.new_tokens, args.forced) + 1
        table = rope_table(np.arange(self.rows), None, self.position.text)
        self.cos, self.sin = (torch.from_numpy(half).to(self.device) for half in table)
        self.names = [f"{kind}.{layer}" for kind in ("key", "value") for layer in range(self.spec.layers)]

    def tensor(self, name: str) -> Tensor:
        """A weight as float32 on the device."""
        return self.checkpoint.float_tensor(name).to(self.device)

    def start(self, inputs: dict[str, Array]) -> tuple[Tensor, Tensor]:
        """Logits [1, V], and the cache with the prompt's rows."""
        results = self.prefill(**self.place(inputs))
        cache = torch.zeros(
            len(self.names), self.rows, 1, self.spec.kv_heads, self.spec.head_dim, device=self.device
        )  # unused rows count for nothing, but must be finite
        for index, name in enumerate(self.names):
            cache[index, : results[name].shape[0]] = results[name]
        return results["logits"], cache

    def step(self, token: int, length: int, cache: Tensor) -> Tensor:
        """Logits [1, V] after a token at position `length`, whose row the cache then has."""
        ids = torch.tensor([[token]], device=self.device)
        past = {f"past_{name}": cache[index, :length] for index, name in enumerate(self.names)}
        table = (half[None, length : length + 1] for half in (self.cos, self.sin))
        results = self.decode(ids, *table, torch.tensor([length], device=self.device), **past)
        for index, name in enumerate(self.names):
            cache[index, length] = results[name][0]
        logits: Tensor = results["logits"][:, -1]
        return logits

    def place(self, arrays: dict[str, Array]) -> dict[str, Tensor]:
        """Arrays on the device, types kept."""
        return {name: torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for name, array in arrays.items()}

    def along(self, tokens: Iterable[int], length: int, cache: Tensor) -> Array:
        """Logits [N, V] after each of N tokens."""
        logits = [self.step(int(token), length + place, cache)[0].cpu() for place, token in enumerate(tokens)]
        return torch.stack(logits).numpy()


class Parts:
    """Each fills `arrays`, and gives facts."""

    def __init__(self, reference: Reference, args: argparse.Namespace) -> None:
        self._reference, self._args = reference, args
        self.arrays: dict[str, Array] = {f"prefill.{name}": array for name, array in reference.inputs.items()}
        rng = np.random.default_rng(1)
        self.arrays["forced.tokens"] = rng.integers(0, reference.spec.vocab_size, args.forced).astype(np.int32)

    def parts(self) -> dict[str, Callable[[], Facts]]:
        """By name, in order."""
        names = ("language_model", "greedy", "encoder", "transformers")
        return {name: getattr(self, name) for name in names}

    def language_model(self) -> Facts:
        """Prefill, its rows, and forced steps."""
        logits, cache = self._reference.start(self._reference.inputs)
        prompt = self._args.prompt
        self.arrays["wanted.logits"] = logits.cpu().numpy()
        self.arrays["wanted.rows"] = cache[:, :prompt, 0].cpu().numpy()
        self.arrays["forced.logits"] = self._reference.along(self.arrays["forced.tokens"], prompt, cache)
        return {"largest_logit": float(logits.abs().max()), "deviation": float(logits.std())}

    def greedy(self) -> Facts:
        """The text, and by how much each token won."""
        row, cache = self._reference.start(self._reference.inputs)
        tokens, won = [], []
        for place in range(self._args.new_tokens):
            won.append(margins(row.cpu().numpy())[0])
            tokens.append(int(row.argmax()))
            row = self._reference.step(tokens[-1], self._args.prompt + place, cache)
        self.arrays |= {"free.tokens": np.array(tokens, np.int32), "free.margins": np.array(won, np.float32)}
        return {"different_tokens": len(set(tokens)), "smallest_margin": float(min(won))}

    def encoder(self) -> Facts:
        """Point tokens of the scene. Attention by its definition, since fast float32 kernels split products."""
        reference = self._reference
        feeds = scene_feeds(self._args.point_cloud, reference.config.encoder)
        module = Encoder(reference.config, reference.tensor)
        with sdpa_kernel(SDPBackend.MATH):
            points = module(reference.place(feeds)).cpu().numpy()
        self.arrays |= {f"encoder.{name}": array for name, array in feeds.items()} | {"wanted.point_tokens": points}
        return {"voxels": len(feeds["features"]), "points": len(points)}

    def transformers(self) -> Facts:
        """transformers' model without a 3D encoding, against the modules with the tables of text for all positions."""
        reference, tokens = self._reference, self.arrays["forced.tokens"][:CROSS_CHECKED]
        inputs = dict(reference.inputs)
        inputs |= {"cos_3d": inputs["cos_1d"], "sin_3d": inputs["sin_1d"]}
        logits, cache = reference.start(inputs)
        got = np.concatenate([logits.cpu().numpy(), reference.along(tokens, self._args.prompt, cache)])
        return {"steps": len(tokens), **closeness(got, self._by_transformers(inputs, tokens))}

    def _by_transformers(self, inputs: dict[str, Array], tokens: Array) -> Array:
        """Logits [1 + N, V]: after the prompt and after each token."""
        plain = open_checkpoint(self._args.model, vlm_pe=None)
        model = build_language_model(plain.config, self._reference.tensor).to(self._reference.device)
        placed = self._reference.place(inputs)
        embeds = model.model.embed_tokens(placed["input_ids"].long())
        embeds = torch.where(placed["point_mask"][..., None], placed["point_embeds"], embeds)
        cache: Any = DynamicCache()
        out = model(inputs_embeds=embeds, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
        rows = [out.logits[:, -1]]
        for token in tokens:
            ids = torch.tensor([[int(token)]], device=embeds.device)
            rows.append(model(input_ids=ids, **{CACHE: cache}, use_cache=True).logits[:, -1])
        return torch.cat(rows).float().cpu().numpy()


def full_float32() -> None:
    """No TF32 anywhere."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--output", required=True, type=Path)
    p.add_argument("--prompt", type=int, default=776, help="positions, point tokens included (default: 776)")
    p.add_argument("--points", type=int, default=556, help="point tokens (default: 556)")
    p.add_argument("--new_tokens", type=int, default=256, help="of the greedy text (default: 256)")
    p.add_argument("--forced", type=int, default=64, help="steps with given tokens (default: 64)")
    p.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp16", help="what inputs must fit into")
    p.add_argument("--point_cloud", type=Path, default=Path("demo/room.ply"))
    p.add_argument("--vlm_pe", "--VLM_PE", default=UNSET, help="(default: the checkpoint's)")
    p.add_argument("--merge_rule", "--PCD_PE_Merge_Rule")
    p.add_argument("--prefill_attention", choices=["causal", "full"], default="causal")
    p.add_argument("--device", default="cuda")
    return p


@torch.inference_mode()
def main() -> int:
    args = parser().parse_args()
    full_float32()
    reference = Reference(args)
    sizes = {name: getattr(args, name) for name in ("prompt", "points", "new_tokens", "forced", "prefill_attention")}
    facts = {
        **model_facts(reference.spec, "fp32"),
        **sizes,
        "inputs": args.precision,
        "vlm_pe": reference.config.vlm_pe,
        "merge_rule": reference.config.merge_rule,
    }
    report = Report(args.output.with_suffix(".json"), "reference", {**facts, "torch": torch.__version__})
    parts = Parts(reference, args)
    for name, part in parts.parts().items():
        report.part(name, part)
        write_case(args.output, parts.arrays, facts)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
