"""Compiling a bundle's graphs with TensorRT. Nothing here needs torch or onnx, and only the child process compiles."""
