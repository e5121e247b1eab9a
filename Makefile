# `make help` lists what there is. Each target does its own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that test side by side: more than processors, since most of a test on real servers is waiting.
LANES ?= 3

.PHONY: help setup demo test check bench lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/.complete ## Create .venv from the locked, hash-checked dependencies

$(VENV)/.complete: requirements-dev.lock pyproject.toml
	@infra/stack/local/set-up.sh "$(PYTHON)" "$(VENV)"

demo: setup ## Run real orders through a private stack, break it, repair it (KEEP=1 leaves it running)
	@$(BIN)/python -m infra.stack.demo

# Some hundred processes would otherwise compile the same sources, each anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup check ## Everything the project promises, checked
	@$(BIN)/python -m pytest -n $(LANES)

check: setup ## Lint, types, architecture
	@$(BIN)/ruff format --check .   # `.venv/bin/ruff format .` mends it
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## Orders per second, latency and the machine's floor (under 15 minutes)
	@$(BIN)/python -m tests.bench

lock: ## Resolve the dependencies anew (needs uv); the locks name no registry
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --all-extras -c requirements.lock pyproject.toml -o requirements-dev.lock
	echo hatchling | uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate -c requirements-dev.lock - -o infra/docker/build.lock

clean: ## Remove .venv and caches; the stack's data in .tutti stay (`tutti reset` empties them)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
