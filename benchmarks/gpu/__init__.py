"""Measurements on a GPU, each a command with a JSON result. In this order, for one model:

    python -m export.make_checkpoint --family qwen --size real --dtype bfloat16 --output CHECKPOINT
    python export_model.py --model CHECKPOINT --output BUNDLE --precision fp16
    python -m benchmarks.gpu.reference --model CHECKPOINT --output ref.npz
    python -m benchmarks.gpu.torch_baseline --model CHECKPOINT --output torch.json --reference ref.npz
    python -m benchmarks.gpu.scene --bundle BUNDLE --output scene-torch.json --backend torch --model CHECKPOINT

and where TensorRT is, which needs no PyTorch (the bundle and ref.npz are what travels):

    python -m benchmarks.gpu.build --bundle BUNDLE --output build.json --rounds 2
    python -m benchmarks.gpu.engines --bundle BUNDLE --output engines.json --reference ref.npz
    python -m benchmarks.gpu.scene --bundle BUNDLE --output scene.json
    python -m benchmarks.gpu.profile --bundle BUNDLE --output profile.json --reference ref.npz

    python -m benchmarks.gpu.build_matrix --bundle BUNDLE --folder WORK --output matrix.json

builds the language model's engines in several ways side by side, each with its seconds, and makes a bundle of each way.
`python -m benchmarks.gpu.table *.json` makes markdown of the results.

Our kernels need neither bundle nor TensorRT, only PyTorch and what `make plugins` made (decode_step: only nvcc):

    python -m benchmarks.gpu.prefill_step --output out/prefill_step
    python -m benchmarks.gpu.decode_step --output out/decode_step
    benchmarks/gpu/sanitize.sh out/sanitize

All of it, in the order that keeps measurements off a busy card, for a machine with one or two GPUs and a Python each
for PyTorch and for TensorRT (they may be one):

    WORK=/disk/with/40GB HOST_PYTHON=python3 TRT_PYTHON=python3.10 benchmarks/gpu/session.sh check
    ... session.sh start;  ... session.sh wait 3600

Checkpoints with random weights, bundles and references first; then engines with our operators (PLUGINS), the build
matrix, and tiny engines, with parity as engines come; when all builds have ended the speeds of our engines, TensorRT's
own, ONNX Runtime (ORT_SITE) and PyTorch, profiles, recorded rungs on top of export.parity's ladder, tests/gpu,
compute-sanitizer. `session.sh` alone prints its settings, among them those of a short session.
"""
