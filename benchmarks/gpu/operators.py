"""The plugin library's operators without TensorRT: its C functions through ctypes, over addresses on the device."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plugins.decode_step.sizes import Sizes
from plugins.language_model.arguments import LanguageModelTensors, ModelSizes, ModelWeights

WHY_BYTES = 512


class DecodeStepTensors(ctypes.Structure):
    """`DecodeStepTensors` of plugins/decode_step/launch.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("token", "past_length", "cos", "sin", "past")),
        ("past_rows", ctypes.c_int),
        ("weights", ModelWeights),
        *((name, ctypes.c_void_p) for name in ("logits", "rows")),
    ]


class Operators:
    """The library's functions. Raises OSError where it does not load, AttributeError where it lacks one."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path.resolve()))
        pointer, text = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_size_t]
        self._room = _declared(
            library.spatiallm_plugins_language_model_workspace, ctypes.c_size_t, [pointer, *[ctypes.c_int] * 4]
        )
        self._run = _declared(library.spatiallm_plugins_language_model, ctypes.c_int, [pointer] * 4 + text)
        self._step_room = _declared(library.spatiallm_plugins_decode_step_workspace, ctypes.c_size_t, [pointer])
        self._step = _declared(library.spatiallm_plugins_decode_step_run, ctypes.c_int, [pointer] * 4 + text)

    def workspace(self, sizes: Sizes, batch: int, rows: int, past_rows: int, all_logits: bool) -> int:
        """Bytes that `language_model` works in."""
        return int(self._room(_at(ModelSizes.of(sizes)), batch, rows, past_rows, int(all_logits)))

    def language_model(
        self, sizes: Sizes, weights: ModelWeights, given: Mapping[str, int], workspace: int, stream: int
    ) -> None:
        """`given`: the other fields of LanguageModelTensors by name; those left out are 0. Raises RuntimeError."""
        tensors = LanguageModelTensors(**given, weights=weights)
        self._told(self._run, sizes, tensors, workspace, stream)

    def decode_step_workspace(self, sizes: Sizes) -> int:
        """Bytes that `decode_step` works in; 0 where the library has no kernel for the model."""
        return int(self._step_room(_at(ModelSizes.of(sizes))))

    def decode_step(
        self, sizes: Sizes, weights: ModelWeights, given: Mapping[str, int], workspace: int, stream: int
    ) -> None:
        """`given`: the other fields of DecodeStepTensors by name. Raises RuntimeError."""
        self._told(self._step, sizes, DecodeStepTensors(**given, weights=weights), workspace, stream)

    def _told(self, function: Any, sizes: Sizes, tensors: Any, workspace: int, stream: int) -> None:
        why = ctypes.create_string_buffer(WHY_BYTES)
        if function(_at(ModelSizes.of(sizes)), _at(tensors), workspace, stream, why, WHY_BYTES):
            raise RuntimeError(why.value.decode(errors="replace") or "the library gave no reason")


def _at(structure: ctypes.Structure) -> Any:
    return ctypes.byref(structure)


def _declared(function: Any, result: Any, arguments: Sequence[Any]) -> Any:
    function.restype, function.argtypes = result, arguments
    return function
