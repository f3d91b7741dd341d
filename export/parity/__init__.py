"""The parity ladder: whether an implementation equals the reference, where it first departs, whether that matters."""

BACKENDS = ("torch", "onnxruntime", "onnxruntime-cuda", "tensorrt")  # in the order of the ladder
