PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: run setup test test-all lint lock clean

run: setup
	$(BIN)/rftfm train examples/calculator.yaml steps=50 --inject OD-1@20:30 --guard act 'guard.act_on=[RF,OD,TE]'

setup: $(STAMP)

$(STAMP): requirements/cpu.lock requirements/install.py pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "Python 3.11 with venv is needed: install it, or name it with make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing the locked packages into .venv (about 3 GB) ..."
	@$(BIN)/python requirements/install.py
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-all: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

lock: setup
	$(BIN)/python requirements/lock.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
