# Every target sets up what it needs; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# What pip gets to install torch, first and alone; nothing where no worker is to run. A host may want another build:
#   make setup TORCH="torch==<version> --index-url <where that build is>"
TORCH ?= $(shell sed -n '/^torch==/p' constraints.txt)
EXTRAS ?= worker,test,dev
# Tests run side by side: much of their time is waiting. Each takes a core and a GB at times.
PROCESSES ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
BUILD := .build

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP)  ## makes .venv and installs into it; all others depend on it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed; {sys.executable} is older. Say which: make PYTHON=python3.11")'
	# One that was cut while it was made has no pip, and is made anew.
	$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	echo "Installing into $(VENV) (minutes when nothing is cached) ..."
	mkdir -p $(BUILD)
	[ -z "$(TORCH)" ] || $(PIP) install --quiet $(TORCH)
	# Held at what is installed now: anything else would pull gigabytes of another build.
	{ grep -v '^torch==' constraints.txt; $(PIP) list --format freeze | grep '^torch==' || true; } > $(BUILD)/constraints.txt
	$(PIP) install --quiet -c $(BUILD)/constraints.txt -e '.$(if $(EXTRAS),[$(EXTRAS)])'
	touch $@

.PHONY: demo
demo: setup  ## transcribes examples/ through all three processes, offline, and scores it
	@$(RUN) -m scripts.demo

.PHONY: test
test: setup  ## every test that this machine can run, in PROCESSES=2 processes
	@$(RUN) -m pytest -ra -n $(PROCESSES) --dist loadfile

.PHONY: up
up: setup  ## worker, controller and gateway in the foreground
	@exec $(RUN) -m scripts.up

.PHONY: bench
bench: setup  ## the benchmarks
	@$(RUN) -m benchmarks

.PHONY: models
models: setup  ## makes the bundled models from nothing into .build/models, and compares; under two hours on two cores
	@$(RUN) -m models.train

.PHONY: faults
faults: setup  ## the simulation, then hundreds of faults on real processes; about half an hour
	@$(RUN) -m tests.simulation --seeds 10000
	$(RUN) -m tests.faults

.PHONY: soak
soak: setup  ## thousands of jobs of hundreds of clients, with a fault every half minute; a quarter of an hour
	@$(RUN) -m tests.faults.soak

.PHONY: check
check: setup  ## format, lint, types, import rules, contracts, generated files
	@$(RUN) -m ruff format --check --quiet . || { echo "Not formatted; run: .venv/bin/ruff format ."; exit 1; }
	$(RUN) -m ruff check --quiet .
	$(RUN) -m mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports
	mkdir -p $(BUILD)
	$(RUN) protos/generate.py --image $(BUILD)/image.binpb
	$(VENV)/bin/buf lint $(BUILD)/image.binpb --config buf.yaml --path bulkscribe
	scripts/check_breaking.sh
	scripts/check_generated.sh
	echo "All checks passed."

.PHONY: protos
protos: setup  ## makes the stubs in protos/gen from the contracts
	@$(RUN) protos/generate.py

.PHONY: docs
docs: setup  ## makes the generated tables of the documentation
	@$(RUN) docs/generate.py
