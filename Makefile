# make demo   export a tiny random checkpoint and run it on a furnished room
# make test   all tests, with the linters and type checks
#
# Each makes its own virtual environment. On a fresh machine let PyTorch come as its CPU build:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
WORKERS ?= 2
PIP = -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint clean

demo: .venv-demo/ready
	.venv-demo/bin/python -m demo.run --output out

test: .venv-test/ready lint
	OMP_NUM_THREADS=1 .venv-test/bin/python -m pytest -n $(WORKERS) --dist loadfile

lint: .venv-test/ready
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/lint-imports

.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	.venv-demo/bin/python $(PIP) '.[onnxruntime,export]'
	touch $@

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	.venv-test/bin/python $(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv-demo .venv-test out build *.egg-info
