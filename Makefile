# Two commands are all a newcomer needs: `make demo` and `make test`.
# Nothing has to be prepared: the environment is made here, from pinned and hashed requirements.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
JOBS   ?= 2
export PYTHONUNBUFFERED = 1
# Bytecode is cached whatever the shell says: start-up times are measured as users have them.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check bench chaos lock golden clean

## demo: start a control plane and two daemons, move a live shop, change it by a commit, verify
demo: $(VENV)/.runtime
	@$(BIN)/mycelial demo

## test: everything, with the time of each part; long runs as a seeded slice
test: $(VENV)/.dev
	@$(BIN)/python tests/support/postgres_server.py ensure || [ "$$CI" != true ]
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

## check: format, lint, types, import contracts and the fast tests; under a minute
check: $(VENV)/.dev
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -n $(JOBS) -m "not e2e and not slow and not postgres"

## bench: the figures of docs/performance.md, both sides from one run
bench: $(VENV)/.dev
	@$(BIN)/python benchmarks/run.py

## chaos: the full kill matrix; `make test` runs a slice of it
chaos: $(VENV)/.dev
	@$(BIN)/python benchmarks/kill_matrix.py

## golden: rewrite the golden files; review the difference like code
golden: $(VENV)/.dev
	@$(BIN)/python -m pytest -n $(JOBS) --update-golden

## lock: resolve the pinned versions again; the files name no package index
lock: $(VENV)/.dev
	@$(PIP) install uv
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group build --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate -q -U \
	  -o requirements/runtime.txt
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate -q -U \
	  -c requirements/runtime.txt -o requirements/dev.txt

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; run make PYTHON=/path/to/python3" >&2; exit 64; }
	@$(PYTHON) -m venv $(VENV)

# A missing driver must not stop the demo, so both sets hold all the extras.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo "installing the pinned requirements into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing the pinned requirements into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.runtime
