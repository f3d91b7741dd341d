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

`python -m benchmarks.gpu.table *.json` makes markdown of the results.
"""
