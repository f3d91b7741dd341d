"""What all parts of the fake share: the version, enumerations, Dims, loggers, strict attributes."""

from __future__ import annotations

import enum
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorrt_names import VERSIONS, members

VERSION = os.environ.get("FAKE_TENSORRT") or VERSIONS[0]
if VERSION not in VERSIONS:
    raise ImportError(f"FAKE_TENSORRT is {VERSION}, not one of {', '.join(VERSIONS)}")
MAJOR = int(VERSION.partition(".")[0])

# As in NvInfer.h; members that are not here are numbered behind these, in the order of the table.
_ORDER = """
DataType FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4 FP4 E8M0
TensorIOMode NONE INPUT OUTPUT
TensorLocation DEVICE HOST
TensorFormat LINEAR CHW2 HWC8 CHW4 CHW16 CHW32 DHWC8 CDHW32 HWC DLA_LINEAR DLA_HWC4 HWC16 DHWC
BuilderFlag FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE
LayerInformationFormat ONELINE JSON
ProfilingVerbosity LAYER_NAMES_ONLY NONE DETAILED
ExecutionContextAllocationStrategy STATIC ON_PROFILE_CHANGE USER_MANAGED
HardwareCompatibilityLevel NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY
MemoryPoolType WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM
NetworkDefinitionCreationFlag EXPLICIT_BATCH STRONGLY_TYPED
"""
VALUES = {line.split()[0]: line.split()[1:] for line in _ORDER.strip().splitlines()}
ALIASES = {"ProfilingVerbosity": {"DEFAULT": "LAYER_NAMES_ONLY", "VERBOSE": "DETAILED"}}


class NativeEnum(enum.Enum):
    """int(member), member.name, member.value, Kind(value); no member equals a number, as in pybind11."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


class Sized(NativeEnum):
    """Kinds of values, which know their bytes."""

    @property
    def itemsize(self) -> int:
        return item_bytes(self)


def _enumeration(name: str, found: set[str]) -> Any:
    aliases = {new: old for new, old in ALIASES.get(name, {}).items() if new in found}
    order = [member for member in VALUES.get(name, []) if member in found]
    order += sorted({member for member in found if member.isupper()} - set(order) - aliases.keys())
    values = {member: index for index, member in enumerate(order)}
    return (Sized if "itemsize" in found else NativeEnum)(
        name, values | {new: values[old] for new, old in aliases.items()}, module="tensorrt"
    )  # type: ignore[call-overload]


ENUMS: dict[str, Any] = {
    owner: _enumeration(owner, set(found))
    for owner, found in members(VERSION).items()
    if {"name", "value", "__init__"} <= found.keys() and len(found["__init__"].signatures) == 1
    if found["__init__"].signatures[0] == ("value",)
}
DataType = ENUMS["DataType"]
NATIVE: set[type] = set()  # classes of the library itself, not those that Python code derives from them
natives: dict[str, Any] = {}  # classes with a behaviour, by name


class Checked(type):
    """A class whose __init__ must be reached by classes that derive from it, as pybind11 demands."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        made = super().__call__(*arguments, **options)
        if isinstance(made, Native) and not made._ready:
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class Native(metaclass=Checked):
    """An object of the library: only the attributes that this version has can be set."""

    _ready = True

    def __setattr__(self, name: str, value: object) -> None:
        if type(self) in NATIVE and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r} in TensorRT {VERSION}")
        object.__setattr__(self, name, value)


def native(made: Any) -> Any:
    """Register a class as the behaviour of the name it has."""
    natives[made.__name__] = made
    return made


@native
class Dims(Native):
    """A shape: length and items, and no equality with tuples. None: unknown rank."""

    MAX_DIMS = 8

    def __init__(self, shape: Sequence[int] | None = ()) -> None:
        self._sizes = None if shape is None else [int(size) for size in shape]

    def __len__(self) -> int:
        return -1 if self._sizes is None else len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return (self._sizes or [])[index]

    def __repr__(self) -> str:
        return "(-)" if self._sizes is None else str(tuple(self._sizes))


class Severity(NativeEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


Severity.__qualname__ = "ILogger.Severity"


@native
class ILogger(Native):
    """To derive from: `log(severity, msg)`."""

    _ready = False
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Severity, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


@native
class Logger(ILogger):
    min_severity: Any = Severity.WARNING

    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: Severity, msg: str) -> None:
        if int(severity) <= int(self.min_severity):
            letter = "FEWIV"[int(severity)]
            print(f"[{time.strftime('%m/%d/%Y-%H:%M:%S')}] [TRT] [{letter}] {msg}", file=sys.stderr)


class Logged(Native):
    """An object that was made with a logger. The library calls the logger of the object that made it."""

    _logger: Any = None

    def _log(self, severity: str, text: str) -> None:
        self._logger.log(Severity[severity], text)

    def _fail(self, text: str) -> None:
        self._log("ERROR", text)


def check_logger(logger: object) -> None:
    if not isinstance(logger, ILogger):
        raise TypeError(f"incompatible constructor arguments: {type(logger).__name__} is no tensorrt.ILogger")


NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool", "UINT8": "uint8",
         "INT64": "int64"}  # fmt: skip


def item_bytes(dtype: Any) -> int:
    return np.dtype(NUMPY[dtype.name]).itemsize
