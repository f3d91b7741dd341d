# make demo      export the demo's checkpoint, read three scans with it, draw and score what it saw
# make test      all tests, with the linters and type checks
# make plugins   our kernels as a library for TensorRT; needs nvcc and TensorRT's headers (TENSORRT_INCLUDE=FOLDER),
#                PLUGIN_OPTIONS='--dry_run' prints what would be run, --help all options
#
# demo and test make a virtual environment of their own, with PyTorch's CPU build where its index can be reached, else
# PyPI's. For PyPI's in any case: TORCH_INDEX=https://pypi.org/simple
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
WORKERS ?= 2
PLUGIN_OPTIONS ?=
PIP = -m pip install --quiet --disable-pip-version-check
PIP_TORCH = $(PIP) --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)

.PHONY: demo test lint plugins clean

demo: .venv-demo/ready
	.venv-demo/bin/python -m demo.run

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
	.venv-demo/bin/python $(PIP_TORCH)
	.venv-demo/bin/python $(PIP) --editable '.[onnxruntime,export,plot,eval]'
	touch $@

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python $(PIP_TORCH)
	.venv-test/bin/python $(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv-demo .venv-test out build plugins/build *.egg-info
