"""Rewrites of finished graphs. A pass is one file: the pattern, the checks, the replacement, and why it did not match.

The portable dialect needs none. Passes are chosen by target and work in place on an `onnx.ModelProto`.
"""
