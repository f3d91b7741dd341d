"""Tests on a real GPU. They need Python 3.10, pytest, numpy, tensorrt and cuda-bindings, but neither torch nor onnx;
`test_language_model.py` needs PyTorch for CUDA and the library of `make plugins` instead.

    python -m pytest --confcutdir=tests/gpu tests/gpu -m gpu

`SPATIALLM_BUNDLES` names a folder of bundles whose engines were built for this GPU. Beside a bundle `NAME` lies
`NAME.npz`: what its graphs took and gave under ONNX Runtime on the CPU,

    python run_engine.py -m NAME -p scene.ply -o out.txt --backend onnxruntime --device cpu \
        --save_tensors NAME.npz --save_steps 64 --max_new_tokens 256

`test_plugin_engines.py` takes those in half precision, and builds engines with our kernels in a copy.
Without a GPU, TensorRT or bundles the tests skip and say what is missing.
"""
