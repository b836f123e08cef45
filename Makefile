# Everything from a fresh machine with Python 3.11 or newer: the first call of a target installs what it needs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable

.PHONY: help demo test test-all test-gpu check bench bench-gpu clean

help:
	@echo "make demo      camera, service and overlay page; SPECIMEN=mos2 shows MoS2 in triplets, SECONDS=20 ends by itself,"
	@echo "               JSON=1 ends with a line of JSON"
	@echo "make test      the tests that need pip packages only"
	@echo "make test-all  and those that need a browser, Prometheus, systemd or a simulated detector"
	@echo "make test-gpu  those that need an NVIDIA GPU; without one they skip and say why"
	@echo "make check     ruff, mypy, import-linter"
	@echo "make bench     speed of the live path, into docs/performance.md"
	@echo "make bench-gpu the same on an NVIDIA GPU, and a roofline; says what is missing where there is none"
	@echo "make clean     remove caches and builds; the environment stays in $(VENV)"

demo: $(VENV)/.live
	@$(VENV)/bin/atomstream demo $(if $(SPECIMEN),--specimen $(SPECIMEN)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(JSON),--json)

test: $(VENV)/.dev
	$(RUN) -m pytest -m "not peer and not gpu"

test-all: $(VENV)/.dev
	$(RUN) -m pytest -m "not gpu" -rs

test-gpu: $(VENV)/.dev
	$(RUN) -m pytest -m gpu -rs

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.dev
	$(RUN) -m bench

bench-gpu: $(VENV)/.dev
	@$(RUN) -m bench.gpu

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Live use needs neither torch nor abTEM; the development install holds it too.
$(VENV)/.live: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Atomstream into $(VENV)"
	@$(INSTALL) .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Atomstream and its tests into $(VENV), which takes some minutes"
	@$(INSTALL) ".[dev]"
	@touch $@ $(VENV)/.live

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Expected Python 3.11 or newer, got $$($(PYTHON) --version 2>&1): install one, then make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
