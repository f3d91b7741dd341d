"""What our plugin library can do for a model. Needs neither onnx nor TensorRT."""

from __future__ import annotations

from plugins.decode_step.sizes import Sizes, Tuning, misfit
from runtime.manifest import LanguageModelSpec


def decode_step_sizes(spec: LanguageModelSpec, precision: str) -> Sizes:
    """What the decode kernel is compiled for."""
    return Sizes(
        hidden=spec.hidden_size,
        intermediate=spec.intermediate_size,
        layers=spec.layers,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocabulary=spec.vocab_size,
        qkv_bias=spec.qkv_bias,
        epsilon=spec.rms_norm_eps,
        bf16=precision == "bf16",
    )


def why_no_decode_step(spec: LanguageModelSpec, precision: str) -> str | None:
    """Why the decode kernel cannot run a model, or None."""
    if precision not in ("fp16", "bf16"):
        return f"the model is in {precision}, but fp16 or bf16 was expected"
    if spec.output_bias or spec.mlp_bias:
        return "its output or MLP products have biases, which no model had that the kernel was written for"
    return misfit(decode_step_sizes(spec, precision), Tuning())
