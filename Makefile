# Two commands set everything up by themselves:
#   make run    the main job from a fresh clone
#   make test   lint, types, import layers, the whole test suite, the validation gate
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= deepseek-v3
ON ?= cloudmatrix384,gb200-nvl72,h200

.PHONY: run test check lint types tests gate bench calibrate docs clean

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	touch $@

run: $(VENV)/.run
	$(BIN)/fullmesh compare $(MODEL) --on $(ON)

test: check tests gate

check: lint types

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/python scripts/check_layers.py

types: $(VENV)/.dev
	$(BIN)/mypy

tests: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

gate: $(VENV)/.dev
	$(BIN)/fullmesh validate

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
