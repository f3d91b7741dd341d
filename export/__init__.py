"""Checkpoint to bundle. Importing the package imports nothing heavy: `export.build` runs without torch and onnx."""

VERSION = "0.1.0"
