# make demo: the whole way once, on simulated tomograms.   make test: the tests.   Both set up .venv by themselves.

PYTHONS ?= python3.11 python3.12 python3.13 python3
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.ready-to-run
TEST_READY := $(VENV)/.ready-to-test
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup demo picker test test-all test-pythons coverage check audit image bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      simulate a project, run everything on it, write demo/report.html"
	@echo "make test      the tests that take minutes, without the slow ones"
	@echo "make test-all  all tests"
	@echo "make coverage  the tests without the slow ones, with the lines of the package that they run"
	@echo "make test-pythons  the same tests on each Python from 3.11 to 3.13 that is installed"
	@echo "make check     ruff, format, mypy, directions of imports, known weaknesses of the pinned packages"
	@echo "make audit     only the latter"
	@echo "make picker    the picker that ships, from nothing: about three hours"
	@echo "make image     the container image for CPUs, with buildah, and a try of it (root)"
	@echo "make bench     benchmarks"
	@echo "make setup     only set up .venv with the tools for the tests"
	@echo "make clean     remove caches and demo/ (.venv stays)"

setup: $(TEST_READY)

demo: $(RUN_READY)
	$(BIN)/membrain-cloud demo demo/

# The picker that ships, from nothing: about three hours of two cores.
picker: $(RUN_READY)
	mkdir -p work
	$(BIN)/membrain-cloud train picking --output work/first.safetensors --work work/first
	$(BIN)/membrain-cloud train picking --output work/membrain-cloud-picker.safetensors --work work/second \
	    --base work/first.safetensors --phantoms 48 --cluttered 0.5 --epochs 8 --seed 4000

test: $(TEST_READY)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(TEST_READY)
	$(BIN)/python -m pytest

# Kernels that numba or Triton compile run outside of the interpreter; pyproject.toml leaves them out.
coverage: $(TEST_READY)
	$(BIN)/python -m pytest -m "not slow" --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

# Each Python gets an environment of its own, .venv-3.12 and so on; a missing one is left out, by name.
test-pythons:
	@for version in 3.11 3.12 3.13; do \
	  if python$$version -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	    echo "Python $$version"; \
	    $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHONS=python$$version || exit 1; \
	  else echo "Python $$version: not installed, left out"; fi; \
	done

check: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	deploy/audit.sh

audit:
	deploy/audit.sh

image:
	deploy/build-image.sh --base-from-debian

bench: $(RUN_READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The interpreter is tried, not only looked up: a name on the PATH may be an empty shim, too old, or lack venv.
$(BIN)/python:
	@for name in $(PYTHONS); do \
	  if $$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "setting up $(VENV) with $$name ($$($$name --version 2>&1))"; \
	    exec $$name -m venv $(VENV); \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with the venv module found (tried: $(PYTHONS))." >&2; \
	echo "Install one (Debian, Ubuntu: python3.11 and python3.11-venv), or name it: make $(or $(MAKECMDGOALS),setup) PYTHONS=/path/to/python3" >&2; \
	exit 1

# torch comes first and alone, so that the wheel of this machine's kind (CPU or GPU) is taken as pip is set up to find it.
$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing membrain_cloud and what it needs (a few minutes, once)"
	$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(PIP_INSTALL) -c constraints.txt -e .
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt $(RUN_READY) | $(BIN)/python
	@echo "installing the tools for the tests"
	$(PIP_INSTALL) -c constraints.txt -e '.[test,deploy]'
	deploy/get-tools.sh
	@echo "installing copick 1.31, which needs an environment of its own"
	benchmarks/readers.sh copick1 || echo "copick 1.31 could not be installed: its tests are skipped"
	@touch $@
