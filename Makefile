# make help             what there is
# PYTHON=python3.13     another interpreter, with a virtual environment of its own
# ACCELERATOR=gpu|tpu   the jax that knows the accelerator
# SECOND=python3.12     the other Python that `make test` tries; by default one that is there

PYTHON ?= python3
ACCELERATOR ?= cpu
VENV := .venv$(if $(filter-out python3,$(notdir $(PYTHON))),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
RUN ?= runs/quickstart
SECOND ?= $(shell for one in python3.13 python3.12 python3.11; do \
  version=$$($$one -V 2>/dev/null) && [ "$$version" != "$$(python3 -V)" ] && echo $$one && break; done)
# A file is one worker's: its fixtures are made and its programs compiled once.
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder
ON_SECOND := $(addprefix tests/,test_imports.py command_line/test_help_page.py model/test_transformer.py \
  training/test_step.py training/test_loop.py training/test_checkpoint.py)

.DEFAULT_GOAL := help
.PHONY: help install quickstart app test types tests second second-tests slow drills app-test format badges clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/installed-$(ACCELERATOR) ## the virtual environment with requirements.txt

quickstart: install ## built-in data → a trained model → pictures of prompts it never saw, in minutes
	$(BIN)/python -m data.artists
	$(BIN)/python -m data.encode --source pictures/things --out records/things --tried_codes=1
	$(BIN)/python train.py --config presets/quickstart.yaml --output_dir=$(RUN)
	$(BIN)/python -m evaluate $(RUN) --splits style --pictures 4 --grid $(RUN)/held-out.png
	@echo "pictures:   $(RUN)/held-out.png  (and the fixed prompts while training: $(RUN)/grids/)"
	@echo "checkpoint: $(RUN)/checkpoints   metrics: $(RUN)/metrics.jsonl"
	@echo "it knows:   107 everyday things, food, animals, faces, hearts, vehicles, tools, plants, weather"
	@echo "your turn:  $(BIN)/python generate.py --checkpoint $(RUN) --prompts \"a red heart\" pizza \"a rocket\" --pictures 6 --out $(RUN)/mine.png"

app: $(VENV)/installed-app ## a web page to draw with, http://127.0.0.1:7860
	$(BIN)/python app.py

test: $(VENV)/installed-dev ## format, lint, types and tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory --jobs 2 types tests
	@$(MAKE) --no-print-directory second

types: $(VENV)/installed-dev
	$(BIN)/mypy .

tests: $(VENV)/installed-dev
	$(BIN)/$(PYTEST)

# The parts that other versions of Python and jax could break.
second:
ifneq ($(PYTHON),python3)
	@echo "PYTHON is $(PYTHON): no second Python is tried"
else
	@second="$(SECOND)"; if [ -n "$$second" ]; \
	then $(MAKE) --no-print-directory PYTHON=$$second second-tests; \
	else echo "no second Python (3.11 to 3.13) is here: skipped"; fi
endif

second-tests: $(VENV)/installed-dev
	$(BIN)/$(PYTEST) $(ON_SECOND)

slow: $(VENV)/installed-dev ## all tests with the mark slow: drills, whole programs, rarer cases
	$(BIN)/$(PYTEST) -m slow

drills: $(VENV)/installed-dev ## kill, damage, fill up and poison runs; the figures of all drills come at the end
	$(BIN)/pytest -vv -n 2 --dist worksteal -m slow -p no:warnings tests/drills tests/entry/test_drills.py

app-test: $(VENV)/installed-app-test ## the web page over HTTP and in Debian's chromium
	$(BIN)/pytest -m "browser or not slow" tests/app

format: $(VENV)/installed-dev ## put the code into the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

badges: ## your name in the notebooks' addresses: make badges OWNER=you
	@test -n "$(OWNER)" || { echo "make badges OWNER=the name of your account on GitHub" >&2; exit 2; }
	@sed -i.old -E 's#(github(\.com)?)/[A-Za-z0-9_-]+/pastel#\1/$(OWNER)/pastel#g' notebooks/*.ipynb
	@rm notebooks/*.ipynb.old

clean: ## remove environments and caches, never pictures, records or runs
	rm -rf .venv* .cache .mypy_cache .pytest_cache .ruff_cache

# A venv that could not get pip, as on Debian without python3-venv, is mended or named.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit("Pastel needs Python 3.11 or newer, and \
	$(PYTHON) is " + v + ": name another one, such as make install PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --without-pip $(VENV)

.PHONY: pip
pip: | $(BIN)/python
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip --default-pip > /dev/null 2>&1 || \
	{ echo "$(VENV) has no pip: install your system's package python3-venv, remove $(VENV), and run make again"; exit 2; }

INSTALL = @echo "installing $<: minutes, about 1.3 GB with what it needs"; \
  $(BIN)/python -m pip install --disable-pip-version-check -r $<

$(VENV)/installed-cpu: requirements.txt | pip
	$(INSTALL)
	@touch $@

$(VENV)/installed-gpu $(VENV)/installed-tpu $(VENV)/installed-app $(VENV)/installed-app-test: $(VENV)/installed-%: requirements-%.txt requirements.txt | pip
	$(INSTALL)
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements.txt | pip
	$(INSTALL)
	@touch $@ $(VENV)/installed-cpu
