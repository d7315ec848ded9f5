PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: compiling all of them would take half of the installation.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test test-clients check format results bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/package  ## create .venv with the package and the exact versions it was tested on

demo: $(VENV)/package  ## train the three task shapes on calendar dates and show what they learnt
	$(BIN)/python examples/demo.py --output_dir runs/demo

test: $(VENV)/tools  ## run the tests
	$(BIN)/python -m pytest --numprocesses 2

test-clients: $(VENV)/clients  ## run the tests of other libraries with our models
	$(BIN)/python -m pytest tests/clients

check: $(VENV)/tools  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/types && ln -sfn "$(CURDIR)" $(VENV)/types/seqblend
	MYPYPATH=$(VENV)/types $(BIN)/mypy

format: $(VENV)/tools  ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(VENV)/package  ## write docs/results.md from the runs under runs/
	$(BIN)/python -m seqblend.training.report runs > docs/results.md

# The profiler that measures memory says that it begins and ends, whatever it is asked, but for this level.
bench: $(VENV)/bench  ## time ours beside its peers (DATA=directory: lengths of its data sets), into runs/bench.json
	KINETO_LOG_LEVEL=99 $(BIN)/python -m seqblend.benchmarks --json runs/bench.json $(if $(DATA),--data $(DATA))

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/package: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .[fonts]
	touch $@

$(VENV)/tools: $(VENV)/package
	$(PIP) --editable .[test]
	touch $@

$(VENV)/bench: $(VENV)/package
	$(PIP) --editable .[bench]
	touch $@

$(VENV)/clients: $(VENV)/package
	$(PIP) --editable .[clients]
	touch $@
