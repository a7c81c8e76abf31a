# Everything from a fresh clone: each target makes .venv, installs what it needs, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
CONSTRAINTS ?=
INSTALL := -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable
REFERENCE := lit_models lit_models.functional lit_models.network lit_models.batched datamodules interpretability \
	interpretability.building_blocks interpretability.evaluation interpretability.images interpretability.loading \
	interpretability.page interpretability.drawing callbacks

.PHONY: help exercise models reference train test test-all test-cuda faults lint bench regression tune tensorboard clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

train: $(VENV)/.installed  ## train the digits experiment, or make train ARGS="mnist --trainer.max_epochs=1"
	$(BIN)/python scripts/train.py $(ARGS)

regression: $(VENV)/.installed  ## Task 1: every regulariser on the eleven points
	$(BIN)/python scripts/regression.py $(ARGS)

exercise: $(VENV)/.installed-test  ## every figure and number of docs/exercise.md, or make exercise ARGS="--only tsne"
	$(BIN)/python scripts/exercise.py $(ARGS)

reference: $(VENV)/.installed-test  ## build/reference: every public name, from its docstring
	$(BIN)/python -W error -m pdoc --docformat google --no-show-source --output-directory build/reference \
		$(REFERENCE)

models: $(VENV)/.installed-test  ## docs/models.md: every method on every architecture
	$(BIN)/python scripts/models.py $(ARGS)

tune: $(VENV)/.installed  ## search the settings of digits, or make tune ARGS="mnist --trials 30"
	$(BIN)/python scripts/tune.py $(or $(ARGS),digits)

test: $(VENV)/.installed-test  ## the tests that take less than three minutes
	$(BIN)/pytest -n 2 $(ARGS)

test-all: $(VENV)/.installed-test  ## also several processes, browser and slow ones
	$(BIN)/pytest -n 2 -m "not faults" $(ARGS)

test-cuda: $(VENV)/.installed-test  ## what holds on a CUDA device; fails where there is none
	BACKLIT_REQUIRE=cuda $(BIN)/pytest -n 4 -m "cuda or any_device" $(ARGS)

faults: $(VENV)/.installed-test  ## hold every promise of docs/reliability.md by its fault, and write that page
	$(BIN)/pytest -n 2 -m "" tests/reliability $(wildcard tests/hostile) --promises docs/reliability.md $(ARGS)

lint: $(VENV)/.installed-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-test  ## this project against its peers, as ratios
	$(BIN)/python scripts/benchmark.py $(ARGS)

tensorboard: $(VENV)/.installed  ## watch the runs
	$(BIN)/tensorboard --logdir runs --samples_per_plugin images=10000

$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) .
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) '.[test]'
	touch $@ $(VENV)/.installed

clean:  ## remove the environment and caches, keep runs and data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
