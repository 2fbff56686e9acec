# Every target prepares .venv by itself; `make demo ARGS=--plain` passes arguments on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# It measures for how long regions hold their event loop: other tests beside it would be part of that.
ALONE := tests/system/test_limits.py

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench performance docs simulate limits chaos jepsen clean

help:
	@echo "make demo      three regions and a shop on this machine (ARGS=--plain, --keep, ...)"
	@echo "make test      the whole test suite (ARGS= goes to pytest)"
	@echo "make check     lint and types"
	@echo "make bench     measure, as ratios against the raw engine and against peers that it starts"
	@echo "make performance  docs/performance.md from what was measured (ARGS=bench/results/latest.json)"
	@echo "make docs      the parts of docs/ that are made of the code"
	@echo "make simulate  1,000 new seeds through the deterministic simulator"
	@echo "make limits    every operation at the limits of its sizes, on both databases (about five minutes)"
	@echo "make chaos     faults on real processes (ARGS='--minutes 30 --seed 1')"
	@echo "make jepsen    200 histories of strong documents under faults, each checked (ARGS='--histories 5')"

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Atoll needs Python 3.11 or newer; say PYTHON=python3.12 for instance")'
	@echo "Installing Atoll into $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable . --group dev
	@touch $@

install: $(VENV)/.installed

demo: install
	@$(BIN)/atoll demo $(ARGS)

test: install
ifeq ($(ARGS),)
	@$(PYTEST) --ignore $(ALONE)
	@$(BIN)/python -m pytest $(ALONE)
else
	@$(PYTEST) $(ARGS)
endif

check: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install
	@$(BIN)/python -m bench $(ARGS)

performance: install
	@$(BIN)/python -m bench.page $(ARGS)

docs: install
	@$(BIN)/python -m tests.layers
	@$(BIN)/python -m tests.http_reference

simulate: install
	@$(BIN)/atoll simulate --seeds 1000 $(ARGS)

limits: install
	@ATOLL_LIMITS=whole $(BIN)/python -m pytest tests/system/test_limits.py $(ARGS)

chaos: install
	@$(BIN)/python -m tests.system.chaos $(ARGS)

jepsen: install
	@$(BIN)/python -m tests.system.jepsen $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
