"""What our plugin library can do for a model, and whether it is here. Needs neither onnx nor TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugins.build import ARCHITECTURE
from plugins.decode_step.sizes import Sizes, misfit
from plugins.library import BUILD, Library, LibraryError, open_library
from runtime.errors import BundleError, EngineError
from runtime.manifest import LanguageModelSpec, Manifest

if TYPE_CHECKING:  # its package needs the CUDA bindings
    from runtime.engines.cuda.gpu import Gpu


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
    return misfit(decode_step_sizes(spec, precision))


def check_plugins(manifest: Manifest) -> None:
    """Raise BundleError where no plugin can run the bundle's model."""
    if reason := why_no_decode_step(manifest.language_model, manifest.precision):
        raise BundleError(f"--plugins cannot run this bundle: {reason}. Build without --plugins.")


def find_plugins(manifest: Manifest, tensorrt: str, gpu: Gpu) -> Library:
    """The library, which has a kernel for the model. Raises EngineError with what to do."""
    wanted = decode_step_sizes(manifest.language_model, manifest.precision)
    if f"sm_{gpu.compute_capability.replace('.', '')}" != ARCHITECTURE:
        raise EngineError(
            f"--plugins is for GPUs of compute capability 9.0, but {gpu.name} has {gpu.compute_capability}. "
            "Build without --plugins."
        )
    try:
        library = open_library(tensorrt)
    except LibraryError as error:
        raise EngineError(f"{error} (or build the engines without --plugins).") from error
    if not library.has_decode_step(wanted):
        raise EngineError(
            f"the plugin library {library.path} has no kernel for the sizes of this model. Build it anew with them: "
            f"{BUILD} PLUGIN_OPTIONS='--sizes {wanted.text}'"
        )
    return library
