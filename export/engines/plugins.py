"""What our plugin library can do for a model, and whether it is here. Needs neither onnx nor TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from export.engines.options import BuildOptions
from export.engines.profiles import Limits, plan_profiles
from plugins.build import DECODE_ARCHITECTURE, OLDEST
from plugins.decode_step import sizes as decode_step
from plugins.decode_step.sizes import Sizes
from plugins.language_model.sizes import MOST_VALUES, call_misfit, misfit, tensor_values
from plugins.library import BUILD, Library, LibraryError, open_library
from runtime.engines.plans import PLUGINS
from runtime.errors import BundleError, EngineError, SceneError
from runtime.manifest import LanguageModelSpec, Manifest

if TYPE_CHECKING:  # its package needs the CUDA bindings
    from runtime.engines.cuda.gpu import Gpu

PROVEN_TENSORRT, PROVEN_CAPABILITY = "8.6.", "9.0"  # where the kernels have run (docs/LOG.md)
PAGE_VALUES = 2048  # half precision values in a page, at which each tensor of the weight file begins


def model_sizes(spec: LanguageModelSpec, precision: str) -> Sizes:
    """The model as the kernels are told about it."""
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


def why_no_plugins(spec: LanguageModelSpec, precision: str) -> str | None:
    """Why the kernels cannot run a model, or None."""
    if precision not in ("fp16", "bf16"):
        return f"the model is in {precision}, but fp16 or bf16 was expected"
    if spec.output_bias or spec.mlp_bias:
        return "its output or MLP products have biases, which no model had that the kernels were written for"
    if reason := misfit(sizes := model_sizes(spec, precision)):
        return reason
    if (values := _file_values(sizes, tied=spec.tie_word_embeddings)) > MOST_VALUES:
        return f"its weight file has {values:,} values, but TensorRT 8.6 takes {MOST_VALUES:,} in a tensor"
    return None


def _file_values(sizes: Sizes, *, tied: bool) -> int:
    """Values of the weight file, all of its pages full."""
    embedding, norm, head, *layers = tensor_values(sizes)
    stored = [embedding, norm, 0 if tied else head, *layers]
    return sum(-(-values // PAGE_VALUES) * PAGE_VALUES for values in stored)


def check_plugins(manifest: Manifest) -> None:
    """Raise BundleError where no plugin can run the bundle's model."""
    if reason := why_no_plugins(manifest.language_model, manifest.precision):
        raise BundleError(f"--plugins cannot run this bundle: {reason}. Build without --plugins.")


def limits_misfit(manifest: Manifest, limits: Limits) -> str | None:
    """Why the kernels cannot run the largest calls that engines are to take, or None."""
    profiles, sizes = plan_profiles(manifest, limits), model_sizes(manifest.language_model, manifest.precision)
    prompt, step = profiles["prefill"]["prefill"], profiles["decode"]["decode"]
    prefill = call_misfit(sizes, prompt["B"][-1], prompt["S"][-1], 0)
    return prefill or call_misfit(sizes, step["B"][-1], 1, step["M"][-1])


def check_limits(manifest: Manifest, limits: Limits) -> None:
    """Raise SceneError for limits that are too large for the kernels."""
    if reason := limits_misfit(manifest, limits):
        raise SceneError(
            f"--plugins cannot run the largest calls: {reason}. Choose a smaller --max_batch, --max_length or "
            f"--max_point_tokens."
        )


def find_plugins(tensorrt: str, gpu: Gpu) -> Library:
    """The library, which has kernels for the GPU. Raises EngineError with what to do."""
    if float(gpu.compute_capability) * 10 < OLDEST:
        raise EngineError(
            f"--plugins is for GPUs of compute capability {OLDEST / 10} or more, but {gpu.name} has "
            f"{gpu.compute_capability}. Build without --plugins."
        )
    try:
        library = open_library(tensorrt)
    except LibraryError as error:
        raise EngineError(f"{error} (or build the engines without --plugins).") from error
    if reason := library.misfit(gpu.name, gpu.compute_capability):
        raise EngineError(reason)
    return library


def settle_plugins(
    options: BuildOptions, manifest: Manifest, tensorrt: str, gpu: Gpu, present: bool | None
) -> tuple[BuildOptions, list[str]]:
    """The options with or without plugins where the user left that open, and what to tell the user.

    They are taken where they have run and were faster and closer to float32. `present` says whether the engines of
    which some stay have them; None: none stays.
    """
    others = options.language_model, options.islands  # of TensorRT's own kernels
    if options.plugins is not None or any(other is not None for other in others) or options.hardware_compatible:
        return replace(options, plugins=bool(options.plugins)), []
    if present is not None:
        return replace(options, plugins=present), []
    proven = gpu.compute_capability == PROVEN_CAPABILITY and tensorrt.startswith(PROVEN_TENSORRT)
    proven = proven and not options.version_compatible
    exported = all(graph in manifest.graphs for graph in PLUGINS.values())
    misfit = why_no_plugins(manifest.language_model, manifest.precision) or limits_misfit(manifest, options.limits)
    without = replace(options, plugins=False)
    if not exported or misfit:
        return without, []
    try:
        find_plugins(tensorrt, gpu)
    except EngineError as error:
        hint = f"built without our own kernels, which are faster here and closer to float32: {error}"
        return without, [hint.replace(" (or build the engines without --plugins).", "")] if proven else []
    if not proven:
        return without, [
            "our own kernels are left out, for they have not run in such engines yet; --plugins takes them"
        ]
    return replace(options, plugins=True), []


def plugin_notes(manifest: Manifest, library: Library, gpu: Gpu) -> Iterator[str]:
    """Why decode is not in one kernel, if it is not: the user should know, for the other way takes longer."""
    sizes = model_sizes(manifest.language_model, manifest.precision)
    slower = "so a token of one scene takes the general kernels, which are slower"
    if gpu.compute_capability != f"{DECODE_ARCHITECTURE[3]}.{DECODE_ARCHITECTURE[4:]}":
        yield f"the decode kernel is for {DECODE_ARCHITECTURE} alone, and {gpu.name} is another GPU, {slower}"
    elif reason := decode_step.misfit(sizes):
        yield f"the decode kernel is not for this model ({reason}), {slower}"
    elif not library.has_decode_step(sizes):
        yield (
            f"the plugin library has no decode kernel for the sizes of this model, {slower}; to build it anew with "
            f"one: {BUILD} PLUGIN_OPTIONS='--sizes {sizes.text}'"
        )
