# make demo      export a tiny random checkpoint and run it on a furnished room
# make test      all tests, with the linters and type checks
# make plugins   our kernels as a library for TensorRT; needs nvcc and TensorRT's headers (TENSORRT_INCLUDE=FOLDER),
#                PLUGIN_OPTIONS='--dry_run' prints what would be run, --help all options
#
# Each makes its own virtual environment. On a fresh machine let PyTorch come as its CPU build:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
WORKERS ?= 2
PLUGIN_OPTIONS ?=
PIP = -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint plugins clean

demo: .venv-demo/ready
	rm -rf out/checkpoint
	.venv-demo/bin/python -m export.make_checkpoint --family qwen --size tiny --seed 0 --output out/checkpoint
	.venv-demo/bin/python export_model.py --model out/checkpoint --output out/bundle --VLM_PE 3D_RoPE --PCD_PE_Merge_Rule 3D_only
	.venv-demo/bin/python run_engine.py --bundle out/bundle --point_cloud demo/room.ply --output out/room.txt --max_new_tokens 256 --timings --save_tensors out/tensors.npz
	@echo
	@echo 'The weights are random, so the text above is noise and the layout is most likely empty.'
	@echo 'Checkpoint: out/checkpoint   bundle: out/bundle   layout: out/room.txt   tensors of each graph: out/tensors.npz'

test: .venv-test/ready lint
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest -n $(WORKERS) --dist loadfile

lint: .venv-test/ready
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/lint-imports

plugins:
	$(PYTHON) -m plugins.build $(PLUGIN_OPTIONS)

.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	.venv-demo/bin/python $(PIP) --editable '.[onnxruntime,export]'
	touch $@

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	.venv-test/bin/python $(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv-demo .venv-test out build plugins/build *.egg-info
