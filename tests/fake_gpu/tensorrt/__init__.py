"""A TensorRT without a GPU: the names of one version and no others, plans that run through ONNX Runtime on the CPU.

FAKE_TENSORRT chooses the version: 8.6.0 (default), 10.16.1 or 11.4.0. Every name that the API table lists for it is
here and every other raises AttributeError. What the project does not use raises NotImplementedError when called.
Stricter than the real one where that is a rule of this project: version 10 builds strongly typed networks only.
"""

from tensorrt_names import members as _members

from tensorrt import _builder, _common, _network, _plugins, _runtime

__version__ = _common.VERSION


def _missing(owner: str, name: str) -> object:
    def call(*_: object, **__: object) -> object:
        raise NotImplementedError(f"the fake tensorrt has no {owner}.{name}: give it one in tests/fake_gpu")

    return call


def _assemble() -> dict[str, object]:
    """Every name of this version; members that it lacks are taken from the classes that have a behaviour."""
    names: dict[str, object] = dict(_common.ENUMS)
    for owner, found in _members(__version__).items():
        if owner in names:
            continue
        if not found:
            names[owner] = _missing("tensorrt", owner)
            continue
        made = _common.natives.get(owner) or type(owner, (_base(owner),), {"__init__": lambda self, *_, **__: None})
        for name in [name for name in vars(made) if not name.startswith("_") and name not in found]:
            delattr(made, name)
        for name, facts in found.items():
            if not hasattr(made, name):
                setattr(made, name, _missing(owner, name) if facts.signatures else None)
        made.__module__ = "tensorrt"
        _common.NATIVE.add(made)
        names[owner] = made
    return names


def _base(owner: str) -> type:
    return _common.natives["ILayer"] if owner.endswith("Layer") else _common.Native


_classes_of = _builder, _network, _plugins, _runtime  # imported for the classes they add
globals().update(_assemble())
get_plugin_registry = lambda: _plugins.REGISTRY  # noqa: E731
