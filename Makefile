# Each target sets up what it needs; `make demo` and `make test` are all that a newcomer has to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-ranges check bench study clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("rosepo needs Python 3.11 or newer, and this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/rosepo train --config examples/quickstart.toml --run runs/demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The oldest and the newest versions that pyproject.toml admits, each in a virtual environment of its own.
test-ranges:
	$(PYTHON) tests/packaging/ranges.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.bench

study: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,semantic]'
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.study.scaling

clean:
	rm -rf $(VENV) build dist
