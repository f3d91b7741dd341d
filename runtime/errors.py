"""Errors a user can mend. The command line prints the sentence and exits with 2, without a traceback."""

from __future__ import annotations


class SceneError(Exception):
    """Base of every user-facing error. The message names the file, what was found, what was expected, what to do."""


class PlyError(SceneError):
    """A point cloud file that cannot be used."""


class BundleError(SceneError):
    """A bundle that is missing, altered, foreign, or written by another version."""


class EngineError(SceneError):
    """A back end or a compiled graph that cannot do what was asked of it."""


class CapacityError(SceneError):
    """A sequence that does not fit the cache."""


class CheckpointError(SceneError):
    """A checkpoint that cannot be exported."""
