# `make help` says what there is. Everything needs Python 3.11+ and a package registry, and nothing else.

# The first that is new enough: a version manager may know another one, or none for .python-version.
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 /usr/bin/python3; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$each; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Tests start hundreds of processes: compiled once, each starts a fifth sooner.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo dev browser test check lint types contracts audit format bench bench-soak bench-docs chaos requirements clean

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 …"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

demo: $(READY)  ## Everything on this machine, with a simulated Zoho; Ctrl-C stops it (PORT=8000)
	@$(BIN)/python -m processors demo

dev: $(READY)  ## The same processes against your own Zoho, as .env says; Ctrl-C stops them
	@$(BIN)/python -m processors dev

browser: $(READY)  ## Debian's Chromium, for the console's tests; where it cannot be installed they are skipped
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& { echo "Installing chromium …"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }; } \
		|| echo "There is no chromium, and only root on Debian can install it here: the browser tests are skipped."

test: $(READY) browser  ## All tests, on embedded Postgres and Redis
	@$(BIN)/python -m compileall -q processors receiver simulator
	@$(BIN)/python -m pytest

check: lint types contracts audit test  ## Lint, types, import contracts, audit of what is depended upon, tests

lint: $(READY)  ## Style and common mistakes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	@$(BIN)/mypy

contracts: $(READY)  ## Who may import whom
	@$(BIN)/lint-imports --no-cache

audit: $(READY)  ## Known weaknesses in what is depended upon; asks a service on the network
	@$(BIN)/pip-audit --requirement requirements.txt --require-hashes --disable-pip --progress-spinner off

format: $(READY)  ## Put the code into its form
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: $(READY)  ## Speed, as ratios against floors measured in the same run; a few minutes
	@$(BIN)/python -m tests.benchmarks

bench-soak: $(READY)  ## How reconciliation grows with the catalogue, up to 100,000 items; a few minutes
	@$(BIN)/python -m tests.benchmarks --soak

bench-docs: $(READY)  ## Put what both measured into docs/performance.md
	@$(BIN)/python -m tests.benchmarks --write-docs

chaos: $(READY)  ## Kill, flush, stop and freeze every part under a stream of webhooks, and count what is lost; a few minutes
	@$(BIN)/python -m tests.chaos

requirements: $(READY)  ## Pin all dependencies anew, with hashes, for every Python from 3.11
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" pyproject.toml -o requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" --constraints requirements.txt --extra local --extra test --extra bench --extra check pyproject.toml -o requirements-dev.txt

clean:  ## Remove what was installed and generated here
	rm -rf $(VENV) build *.egg-info .bench .hypothesis .mypy_cache .ruff_cache
