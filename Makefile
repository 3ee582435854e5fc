# Needs python3 (3.11 or later) and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint types layers gpu-check clean

demo: $(VENV)/.installed  ## simulate, pretrain, adapt, evaluate: the whole way once, with controls
	rm -rf runs/demo
	$(BIN)/python examples/demo.py --output runs/demo

test: $(VENV)/.installed  ## the whole test suite
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: lint types layers  ## style, types and import layers

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

layers: $(VENV)/.installed
	$(BIN)/lint-imports

gpu-check: $(VENV)/.installed  ## the backbone on this machine's GPU: agreement and speed, into docs/performance.md
	$(BIN)/python benchmarks/gpu.py

# torch first and pinned: left to choose, pip may take a build with several gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .ruff_cache .pytest_cache
