# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := .venv-oldest
EXTRAS := ray,slurm,tensorboard,mlflow,wandb

.PHONY: help setup setup-all ablate plots tables report check docs test test-all test-oldest lint bench bench-steps bench-settings bench-records bench-engines gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the package with the versions of constraints.txt

$(READY): pyproject.toml constraints.txt densenet/kernels.cpp
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup-all: $(READY) ## install Ray, submitit and the trackers too, so that no test is skipped for want of them
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,$(EXTRAS)]'

ablate: $(READY) ## run the quick grid on digits: about 5 minutes, ends in tables and figures
	$(BIN)/ablate run quick --out results/quick

plots: $(READY) ## redraw the figures of every folder of results/ from its records
	$(BIN)/ablate report results --all --only figures

tables: $(READY) ## rewrite the tables of every folder of results/ from its records
	$(BIN)/ablate report results --all --only tables

report: $(READY) ## rebuild tables, figures and the page of every folder of results/
	$(BIN)/ablate report results --all

check: $(READY) ## fail where a number in the README or in the findings differs from the records
	$(BIN)/ablate check README.md docs/findings.md

docs: $(VENV)/.docs ## build the pages of docs/ as a site, in site/
	$(BIN)/python docs/fields.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

test: $(READY) check ## every fast test that needs no GPU
	$(BIN)/pytest -n 3 --dist worksteal

test-all: $(READY) check ## the long tests too, and which lines and branches no test has run in its own process
	$(BIN)/pytest -n 3 --dist worksteal -m 'not bench' --cov

test-oldest: $(OLDEST)/.ready ## the fast tests with the oldest versions that pyproject.toml allows, in an environment of its own
	$(OLDEST)/bin/pytest -n 3 --dist worksteal

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt densenet/kernels.cpp
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[dev,peers,$(EXTRAS)]'
	@touch $@

lint: $(READY) ## ruff (lint and format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH := -m bench -p no:xdist --benchmark-columns=median,iqr,rounds --benchmark-sort=name
bench: bench-steps bench-settings ## measure speed and memory beside torchvision's, into results/benchmarks and docs/performance.md

bench-steps: $(READY) ## the part of it in one setting: steps, memory, the data pipeline, whole trainings
	@mkdir -p results/benchmarks
	$(BIN)/pytest $(BENCH) -v --benchmark-json=results/benchmarks/cpu.json tests/test_bench.py tests/test_bench_suite.py
	$(BIN)/python tests/performance.py

bench-settings: $(READY) ## the part of it in other settings: threads, batches, processes, memory allocators; and small networks
	@mkdir -p results/benchmarks
	$(BIN)/pytest $(BENCH) -v --benchmark-json=results/benchmarks/cpu-settings.json tests/test_bench_settings.py
	$(BIN)/python tests/performance.py

bench-records: $(READY) ## measure the reports of 10,000 records
	$(BIN)/pytest $(BENCH) tests/report

bench-engines: $(READY) ## measure what engines add to each of 10,000 tasks, beside bare processes, Ray and Slurm
	$(BIN)/pytest -m bench -s -p no:xdist tests/execution

DEVICE ?= cuda
GRID ?= cifar10
MINUTES ?= 25
gpu: $(READY) ## verify your GPU: tests, steps beside torchvision's, costs beside predictions, and a grid for the time left
	$(BIN)/python tests/gpu.py --device $(DEVICE) --grid $(GRID) --minutes $(MINUTES)

clean: ## remove the environments, caches and the quick grid's results; keep everything committed
	rm -rf $(VENV) $(OLDEST) results/quick site build __pycache__ densenet/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage *.egg-info
	find densenet ablations tests -name __pycache__ -type d -exec rm -rf {} +
