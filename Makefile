# `make demo` and `make test` each do all the set-up on a fresh machine: Python 3.11 or newer and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test lint types floors unit slow fresh bench clean

help:
	@echo "make demo   install into $(VENV) and run a small study on embedded data"
	@echo "make test   install and run linters, types, import rules and all but the slow tests"
	@echo "make slow   the slow tests: kills of the real command, full-size models"
	@echo "make bench  the benchmarks of tests/benchmarks, one after the other"

# New entry points are invisible to an editable install until it is made again.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -m compileall -q harness plugins
	touch $@

demo: $(INSTALLED)
	@echo "Two small networks, trained on generated shapes, are asked about ten classes they have never seen, while more"
	@echo "and more of each image is blacked out. Each learns the new classes from 1 or 10 images; chance is 10 %."
	@echo
	@mkdir -p runs
	$(BIN)/harness run --suite demo --out runs/demo --plot runs/demo.png

test: lint types floors unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

floors: $(INSTALLED)
	$(BIN)/lint-imports

unit: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not fresh_install"

fresh: $(INSTALLED)
	$(BIN)/python -m pytest -m fresh_install

bench: $(INSTALLED)
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
