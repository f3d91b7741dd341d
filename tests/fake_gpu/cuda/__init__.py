"""Fake of the package `cuda`."""
