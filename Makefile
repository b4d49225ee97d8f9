# make help             what there is
# PYTHON=python3.13     another interpreter, with a virtual environment of its own
# ACCELERATOR=gpu|tpu   the jax that knows the accelerator

PYTHON ?= python3
ACCELERATOR ?= cpu
VENV := .venv$(if $(filter-out python3,$(notdir $(PYTHON))),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
RUN ?= runs/quickstart

.DEFAULT_GOAL := help
.PHONY: help install quickstart test slow drills format clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/installed-$(ACCELERATOR) ## the virtual environment with requirements.txt

quickstart: install ## built-in data → a trained model → pictures of prompts it never saw, in minutes
	$(BIN)/python -m data.emoji --out pictures/starter --subset starter
	$(BIN)/python -m data.encode --source pictures/starter --out records/starter
	$(BIN)/python train.py --config presets/quickstart.yaml --output_dir=$(RUN)
	$(BIN)/python -m evaluate $(RUN) --splits tone --pictures 4 --grid $(RUN)/held-out.png
	@echo "pictures:   $(RUN)/held-out.png  (and the fixed prompts while training: $(RUN)/grids/)"
	@echo "checkpoint: $(RUN)/checkpoints   metrics: $(RUN)/metrics.jsonl"
	@echo "your turn:  $(BIN)/python generate.py --checkpoint $(RUN) --prompts \"waving hand: dark skin tone\" --pictures 9 --out $(RUN)/waving.png"

test: $(VENV)/installed-dev ## format, lint, types and tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/pytest -n 2 --dist loadgroup

slow: $(VENV)/installed-dev ## the longer proofs
	$(BIN)/pytest -n 2 --dist loadgroup -m slow

drills: $(VENV)/installed-dev ## kill, damage, fill up and poison runs; the figures of all drills come at the end
	$(BIN)/pytest -vv -n 2 --dist worksteal -m slow -p no:warnings tests/drills tests/entry/test_drills.py

format: $(VENV)/installed-dev ## put the code into the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove environments and caches, never pictures, records or runs
	rm -rf .venv* .cache .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-cpu: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-gpu $(VENV)/installed-tpu: $(VENV)/installed-%: requirements-%.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-$*.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/installed-cpu
