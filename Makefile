# nas_nb: `make post` and `make test` do all the set-up; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV = .venv
PYTHON = python3
DATASET = digits
BUDGET = quick

# With VENV= (empty) everything runs in the environment that is active.
BIN = $(if $(VENV),$(VENV)/bin/)
RUN = $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
STAMP = $(VENV)/.nas_nb-installed
ENVIRONMENT = $(if $(VENV),$(STAMP),active)

.PHONY: help post test lab site bench active

help:
	@echo "make post    run the main job and publish it (DATASET=$(DATASET) BUDGET=$(BUDGET))"
	@echo "make test    every check and test"
	@echo "make lab     JupyterLab, with a form for posts"
	@echo "make site    documentation and blog into _site/"
	@echo "make bench   speed, as ratios measured side by side"
	@echo
	@echo "The environment is $(if $(VENV),$(VENV) (made when missing),the active one); VENV= uses the active one, PYTHON=python3.12 another Python."

post: $(ENVIRONMENT)
	@$(BIN)nas-nb post search_report -p dataset $(DATASET) -p budget $(BUDGET)

test: $(ENVIRONMENT)
	@echo "Style of notebooks and tests"
	@$(RUN) -m ruff check
	@$(BIN)chkstyle nbs
	@echo "Notebooks, two at a time"
	@OMP_NUM_THREADS=1 $(BIN)nbdev-test --n-workers 2 --timing
	@echo "Tests of what a notebook cannot show"
	@$(RUN) -m pytest

lab: $(ENVIRONMENT)
	@$(BIN)jupyter lab --LabApp.default_url=/lab/tree/blog/welcome.ipynb

site: $(ENVIRONMENT)
	@$(BIN)nas-nb site

bench: $(ENVIRONMENT)
	@for f in bench/darts.py bench/gpu.py; do echo "$$f"; $(RUN) "$$f"; done

active:
	@$(RUN) -c "import nas_nb" 2> /dev/null || { echo "nas_nb is not installed in the active environment: pip install -e '.[site,dev,kernels,accelerate,ct,arrays,bayes,apps,export,dask,tensorboard]', or leave out VENV= to make one" >&2; exit 1; }

ifneq ($(VENV),)
$(STAMP): settings.ini setup.py
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { echo "nas_nb needs Python 3.10 or newer: name one with PYTHON=python3.12" >&2; exit 1; }
	@if ! $(VENV)/bin/python -m pip --version > /dev/null 2>&1; then \
	    echo "Making the environment $(VENV)"; \
	    $(PYTHON) -m venv $(VENV) > /dev/null 2>&1 \
	    || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip -q --python $(VENV)/bin/python install pip; } > /dev/null 2>&1 \
	    || { rm -rf $(VENV); echo "$(PYTHON) cannot make an environment: apt install python3-venv, or use an active one with VENV=" >&2; exit 1; }; \
	fi
	@echo "Installing nas_nb and what it needs into $(VENV) (minutes the first time)"
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[site,dev,kernels,accelerate,ct,arrays,bayes,apps,export,dask,tensorboard]'
	@touch $@
endif
