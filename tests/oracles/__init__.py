"""Slow and obvious implementations, written from the definitions for the tests alone. They need only numpy."""

from tests.oracles.encoder import oracle_encoder

__all__ = ["oracle_encoder"]
