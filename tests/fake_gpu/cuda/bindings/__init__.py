"""Fake of `cuda.bindings`, as far as this project uses it: functions return (error, value, ...)."""

__version__ = "12.9.0"
