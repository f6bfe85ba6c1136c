# Each target sets up what it needs; `make demo` and `make test` are all that a newcomer has to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-ranges check docs bench study chaos clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("rosepo needs Python 3.11 or newer, and this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
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

# The variable leaves out the theme's advertisement; warnings of the build still end it.
docs: $(READY)
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

bench: $(READY)
	$(BIN)/python -m benchmarks.bench

study: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,semantic]'
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.study.scaling

# Kills runs of a tiny model in all ways, and says how many went on to the same end.
chaos: $(READY)
	$(BIN)/python -m benchmarks.chaos

clean:
	rm -rf $(VENV) build dist
