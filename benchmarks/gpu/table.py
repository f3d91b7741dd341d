"""Result files of one card become tables: python -m benchmarks.gpu.table gpu-{torch,engines,ort,scene,build}-*.json

Of two results of one kind and model the last one counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
NONE = "–"
PLANS = ("encoder", "language_model", "prefill", "decode")
KERNELS, ONNX_RUNTIME = "engines, our kernels", "engines, ONNX Runtime"
# Label, kind of result, where prefill's milliseconds stand, where a token's stand.
SPEEDS = (
    ("transformers, eager", "torch_baseline", "eager.prefill.ms", "eager.per_token.ms"),
    ("PyTorch: static cache, compiled, CUDA graph", "torch_baseline", "best.prefill.ms", "best.decode.ms"),
    ("TensorRT, tokens through the host", "engines", "prefill_speed.to_logits.ms", "decode_plain_speed.per_token.ms"),
    ("TensorRT, steps on the device", "engines", "prefill_speed.to_logits.ms", "decode_device_loop_speed.per_token.ms"),
    ("the same, in a CUDA graph", "engines", "prefill_speed.to_logits.ms", "decode_device_graph_speed.per_token.ms"),
    ("the same, with our kernels", KERNELS, "prefill_speed.to_logits.ms", "decode_device_graph_speed.per_token.ms"),
    ("ONNX Runtime", ONNX_RUNTIME, "prefill_speed.to_logits.ms", "decode_device_graph_speed.per_token.ms"),
)  # fmt: skip
PARITY = (
    ("prefill logits, cosine", "prefill_parity.logits.cosine_min"),
    ("cache rows, least cosine of a layer", "prefill_parity.rows_cosine_min"),
    ("logits of forced steps, least cosine", "forced_parity.cosine_min"),
    ("point tokens, least cosine", "encoder_parity.cosine_min"),
    ("greedy tokens equal along PyTorch's text", "followed_parity.equal"),
    ("greedy tokens until the first coin toss", "free_parity.equal_until"),
)
SCENES = ("scene, our kernels", "scene, tensorrt", "scene, onnxruntime", "scene, torch")
STAGES = ("reading", "cleaning", "geometry", "prompt", "encoder", "prefill", "decode")


def tables(results: Sequence[Facts]) -> str:
    """All tables that the results suffice for, as markdown."""
    made = (speed_table(results), parity_table(results), scene_table(results), size_table(results))
    return "\n\n".join(table for table in made if table)


def speed_table(results: Sequence[Facts]) -> str:
    """Prefill and decode: a row for each way to run, two columns for each model."""
    models = labels(results, ("torch_baseline", "engines", KERNELS, ONNX_RUNTIME))
    header = [cell for model in models for cell in (f"{model}: prefill ms", "ms/token")]
    rows = []
    for name, wanted, prefill, token in SPEEDS:
        found = [of(results, wanted, model) for model in models]
        rows.append([name, *(number(dig(facts, key), 2) for facts in found for key in (prefill, token))])
    return markdown(["", *header], rows) if models else ""


def parity_table(results: Sequence[Facts]) -> str:
    """How near the engines are to float32 PyTorch: a column for each model and mode."""
    found = {mode(facts): facts for facts in results if facts["benchmark"] == "engines" and "prefill_parity" in facts}
    rows = [[name, *(number(dig(facts, key), 7) for facts in found.values())] for name, key in PARITY]
    rows.append(["all within what is promised", *(told(facts.get("parity_passed")) for facts in found.values())])
    return markdown(["", *found], rows) if found else ""


def scene_table(results: Sequence[Facts]) -> str:
    """Milliseconds of each stage: a column for each model and what ran it."""
    models = labels(results, SCENES)
    columns = [(model, ran) for model in models for ran in SCENES if of(results, ran, model)]
    found = [of(results, ran, model) for model, ran in columns]
    rows = [[stage, *(number(dig(facts, f"stages.milliseconds.{stage}"), 1) for facts in found)] for stage in STAGES]
    rows.append(["total", *(number(dig(facts, "stages.total_ms"), 1) for facts in found)])
    return markdown(["ms", *(f"{model}, {ran.partition(', ')[2]}" for model, ran in columns)], rows) if models else ""


def size_table(results: Sequence[Facts]) -> str:
    """Plans, memory, build and load: a column for each model and maker of engines."""
    makers = ("engines", KERNELS)
    columns = [(model, maker) for model in labels(results, makers) for maker in makers if of(results, maker, model)]
    found = [of(results, maker, model) for model, maker in columns]
    rows = []
    for name in PLANS:
        if not any(plans := [plan(facts, name) for facts in found]) and name != "encoder":
            continue  # prefill and decode are in one plan, or each in its own
        rows.append([f"{name} plan, MB", *(number(dig(facts, "bytes"), 0, 1e6) for facts in plans)])
        rows.append([f"{name} built in s", *(number(dig(facts, "seconds"), 0) for facts in plans)])
        rows.append([f"{name} built again in s", *(number(again(results, *column, name), 0) for column in columns)])
        rows.append([f"{name} layers", *(number(dig(facts, "layers"), 0) for facts in plans)])
        rows.append([f"{name} layers that only reformat", *(number(dig(facts, "reformats"), 0) for facts in plans)])
    for name, key, scale in (
        ("working memory of all engines, MB", "memory.scratch_bytes", 1e6),
        ("cache at full capacity, MB", "memory.cache_bytes", 1e6),
        ("on the device after the first token, MB", "load.total_mb", 1),
        ("from disk to the first token, s", "load.to_first_token_seconds", 1),
    ):
        rows.append([name, *(number(dig(facts, key), 1, scale) for facts in found)])
    names = [f"{model}{maker.removeprefix('engines')}" for model, maker in columns]
    return markdown(["", *names], rows) if columns else ""


def labels(results: Sequence[Facts], kinds: Sequence[str]) -> list[str]:
    """Models of which there are results of these kinds, in the order of the results."""
    return list(dict.fromkeys(label(facts) for facts in results if kind(facts) in kinds))


def kind(facts: Facts) -> str:
    """The benchmark; engines that are not TensorRT's own have kinds of their own, and so have scenes."""
    if facts["benchmark"] == "scene":
        return f"scene, {'our kernels' if facts.get('plugins') else facts['backend']}"
    if facts["benchmark"] != "engines":
        return str(facts["benchmark"])
    if facts.get("backend") == "onnxruntime":
        return ONNX_RUNTIME
    folders = list((dig(facts, "memory.plans") or {}).values())
    return KERNELS if folders and folders[-1].get("plugins") else "engines"


def label(facts: Facts) -> str:
    """A model and its precision in a few words."""
    model = facts["model"]
    return f"{model['family'].capitalize()} {model['layers']}x{model['hidden_size']} {facts['precision']}"


def mode(facts: Facts) -> str:
    """The label with the reference's 3D encoding, of which one engine serves all, and with what ran."""
    encoding = dig(facts, "reference.merge_rule") or dig(facts, "reference.vlm_pe")
    ran = kind(facts).removeprefix("engines").removeprefix(", ")
    return ", ".join(part for part in (label(facts), encoding, ran) if part)


def again(results: Sequence[Facts], model: str, maker: str, graph: str) -> float | None:
    """Seconds of the last build of a plan whose kernels the timing cache knew."""
    builds = [
        facts
        for facts in results
        if facts["benchmark"] == "build" and label(facts) == model and bool(facts.get("plugins")) == (maker == KERNELS)
    ]
    rounds = (part for facts in builds for name, part in facts.items() if name.startswith("build_"))
    plans = [joined(part.get("graphs", {}), graph) for part in rounds]
    return next((plan["seconds"] for plan in reversed(plans) if plan.get("warm")), None)


def told(passed: bool | None) -> str:
    """Yes, no, or a dash."""
    return NONE if passed is None else "yes" if passed else "no"


def of(results: Sequence[Facts], wanted: str, model: str) -> Facts:
    """The last result of this kind and model; nothing where there is none."""
    found = [facts for facts in results if kind(facts) == wanted and label(facts) == model]
    return found[-1] if found else {}


def plan(facts: Facts, name: str) -> Facts:
    """A plan's record, of the bundle's last folder of engines."""
    folders = list((dig(facts, "memory.plans") or {}).values())
    return joined(folders[-1]["plans"], name) if folders else {}


def joined(plans: Mapping[str, Facts], name: str) -> Facts:
    """A plan's facts, or those of its segments together; these are built side by side, so the slowest one's seconds."""
    parts = [facts for plan, facts in plans.items() if plan.partition(".")[0] == name]
    if len(parts) < 2:
        return dict(parts[0]) if parts else {}
    sums = {key: sum(part[key] for part in parts) for key in ("bytes", "layers", "reformats")}
    slowest, warm = max(part["seconds"] for part in parts), all(part["warm"] for part in parts)
    return {**parts[0], **sums, "seconds": slowest, "warm": warm, "segments": len(parts)}


def dig(facts: Facts, path: str) -> Any:
    """`facts["a"]["b"]` for "a.b"; None where a step is missing, as in a part that failed."""
    value: Any = facts
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def number(value: float | None, places: int, scale: float = 1.0) -> str:
    """A number with so many decimals, integers as they are, or a dash."""
    if value is None:
        return NONE
    return str(value) if isinstance(value, int) and scale == 1 else f"{value / scale:,.{places}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("results", nargs="+", type=Path)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in p.parse_args().results]
    print(tables([facts for facts in results if "model" in facts]))


if __name__ == "__main__":
    main()
