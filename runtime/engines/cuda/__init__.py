"""CUDA memory, streams, graphs and the kernels of a decode step, without torch."""
