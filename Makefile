# The commands that people and CI share. `make help` lists them.
#
# Everything is made inside the project's folder: .venv (Python), .engine (Docker and test programs),
# tools/vercel-cli/node_modules. `make clean` removes it again.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
NODE := tools/vercel-cli/node_modules/.package-lock.json

# Tests that need nothing but Python and start nothing.
PURE := not process and not engine and not postgres and not node and not crash and not e2e
# One worker more than cores, since tests wait as much as they work, and no more than four: the engine is shared.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n < 4 ? n + 1 : 4 )))
# Further arguments: make test ARGS='-k postgres', make bench ARGS='--quick'
ARGS ?=

.PHONY: help venv node parts engine engine-stop demo test check format bench clean

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

venv: ## the Python environment, from hash-pinned requirements
	@tools/venv.sh $(PYTHON)

node: $(NODE) ## the pinned Vercel CLI, for the tests that drive it

$(NODE): tools/vercel-cli/package-lock.json
	@command -v npm >/dev/null || { echo "node: install Node 20 or newer with npm" >&2; exit 1; }
	@echo "node: installing Vercel's own command line" >&2
	@cd tools/vercel-cli && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

parts: ## busybox, Redis and an image registry, unpacked into .engine/parts
	@$(PYTHON) tools/parts.py

engine: ## start the Docker engine and leave it running
	@$(PYTHON) tools/engine.py up

engine-stop: ## stop the engine started by `make engine`
	@$(PYTHON) tools/engine.py down

demo: venv ## break a practice production and bring it back (needs no account anywhere)
	@if command -v npm >/dev/null; then $(MAKE) node; fi # the demo asks Vercel's own command too where it can
	@$(PYTHON) tools/parts.py busybox redis-server
	@$(PYTHON) tools/engine.py run -- $(BIN)/python -m reconciler.sandbox.demo

test: venv node parts ## every test, on real parts; a test that could not run has failed
	@mkdir -p test-results
	@$(PYTHON) tools/engine.py run -- $(BIN)/pytest -n $(WORKERS) --dist loadgroup \
	  --durations=15 --junit-xml=test-results/junit.xml $(ARGS)

check: venv ## format, lint, types, import contracts and the pure tests; half a minute
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/pytest -q -n $(WORKERS) -m '$(PURE)' $(ARGS)

format: venv ## rewrite the code the way `make check` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: venv parts ## measure ourselves against plain Compose and the runbook's script
	@$(PYTHON) tools/engine.py run -- $(BIN)/python -m bench $(ARGS)

clean: ## remove everything that make made
	@$(PYTHON) tools/engine.py down
	@rm -rf .venv .engine tools/vercel-cli/node_modules test-results build dist \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
