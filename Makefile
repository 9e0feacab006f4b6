# `make` lists the targets. GNU make and a POSIX sh are enough; everything is
# installed into .venv, nothing outside it is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Extra arguments: `make test ARGS="-k store"`, `make demo ARGS="--json"`.
ARGS ?=

# Each core takes tests of its own, so torch gets one thread in each.
SIDE_BY_SIDE = OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -m "not slow" \
  -n logical --dist worksteal

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup dev python demo test unit check format chaos coverage lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: python ## make .venv and install the pinned dependencies
	@exec $(PYTHON) bootstrap.py

dev: python
	@exec $(PYTHON) bootstrap.py --dev

python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "setup: $(PYTHON) was not found" >&2; \
	  echo "  do: install Python 3.11 or newer (Debian, Ubuntu: sudo apt-get install" \
	       "python3 python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; }

demo: setup ## from text to a model that answers over HTTP (about 2 minutes on 2 cores)
	@exec $(BIN)/mulm demo $(ARGS)

test: dev ## all tests, with real clusters (an hour on two cores); with ARGS those that it names
ifeq ($(ARGS),)
	@$(SIDE_BY_SIDE)
	@$(BIN)/python -m pytest tests/unit tests/ui -m slow
	@exec $(BIN)/python -m pytest tests/cluster tests/docs
else
	@exec $(BIN)/python -m pytest $(ARGS)
endif

unit: dev ## the unit tests but the slow ones, on all cores (8 minutes on two)
	@$(SIDE_BY_SIDE) $(ARGS)

check: dev ## formatting, lint, types and the package chain
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: dev ## format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

chaos: dev ## faults over the real application (half an hour); ARGS="--seed 3 --case kill-ledger", ARGS="--minutes 60"
	@exec $(BIN)/python -m benchmarks.chaos $(ARGS)

coverage: dev ## the unit tests with a coverage report
	@$(BIN)/python -m pytest tests/unit --cov --cov-report=term:skip-covered $(ARGS)

lock: python ## resolve the dependencies anew and write constraints.txt
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet --editable '.[app,dev]' \
	  "$$(grep '^torch==' constraints.txt)" setuptools
	@{ grep '^#' constraints.txt; \
	   build/lock/bin/pip freeze --all --exclude-editable \
	   | sed 's/^\(torch==[^+]*\)+.*/\1/' \
	   | grep -Ev '^(pip|wheel|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)[ =]' \
	   | LC_ALL=C sort -f; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -r build/lock

clean: ## remove .venv, caches and build outputs (never your data in MULM_HOME)
	@rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis \
	  .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
