# `make` lists the targets. The first use of any of them makes the environment in .venv.

PYTHON ?= python3
# The torch that the tests run with. For the newest, make venv CONSTRAINTS=
CONSTRAINTS ?= constraints/cpu.txt
# Processes that run the tests, each with one thread for the networks. A third of the time they wait for others that they
# have started, so one more than a small machine has cores.
WORKERS ?= 3
# Malformed inputs that `make fuzz` tries.
FUZZ ?= 10000
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help venv demo test trials fuzz lint format docs bench clean clean-demo clean-venv

# Each step says its name, so that a long silence is never a riddle.
step = printf '\n\033[1m== %s\033[0m\n' "$(1)"

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## Make or update .venv with everything in it (PYTHON=python3.12 for another Python).

# Made again when what is to be installed changes. pip is quiet but for the packages that take time to fetch.
$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "featstore needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)."; \
	  echo "  next: make venv PYTHON=python3.12   (or wherever a newer Python is)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' can't make virtual environments."; \
	  echo "  next: install its venv module (Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	@$(call step,Installing featstore and what it needs into $(VENV): two or three minutes the first time)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@set -o pipefail; \
	  $(BIN)/python -m pip install --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) \
	    -e '.[test,lint,demo]' \
	  | { grep --line-buffered -oE \
	      '(Downloading|Using cached) [^ ]+ \([0-9.]+ MB\)|^Installing collected packages|^Successfully installed' \
	      || true; }
	@touch $@

demo: $(READY) ## Run the whole path on real pixels with real weights, in ./demo (two minutes on two cores).
	@$(BIN)/python examples/grade_cohort/run_demo.py

test: lint ## Run every check: lint, then the tests.
	@$(call step,pytest)
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

trials: $(READY) ## Run the tests that take too long for `make test`: whole examples, networks at full size, kills.
	@$(call step,pytest -m trial)
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m trial -n $(WORKERS) --dist loadfile

fuzz: $(READY) ## Try 10,000 malformed inputs on every reader (FUZZ=50000 for more; some minutes).
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --count $(FUZZ)

lint: $(READY) ## Check style, types and the direction of imports.
	@$(call step,ruff check)
	@$(BIN)/ruff check
	@$(call step,ruff format --check)
	@$(BIN)/ruff format --check
	@$(call step,mypy)
	@$(BIN)/mypy
	@$(call step,lint-imports)
	@$(BIN)/lint-imports

format: $(READY) ## Format the code, and mend what ruff can mend.
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: $(READY) ## Write the generated parts of docs/ and README.md again.
	@$(BIN)/python docs/generate.py

bench: $(READY) ## Run the benchmarks and print their figures.
	@for script in benchmarks/*.py; do \
	  $(call step,$$script); HF_HUB_OFFLINE=1 $(BIN)/python $$script || exit 1; done

clean: ## Delete caches and builds; neither .venv nor ./demo.
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -path ./$(VENV) -prune -o -path ./demo -prune -o -type d -name __pycache__ -print0 | xargs -0 rm -rf

clean-demo: ## Delete ./demo, if the demo made it.
	@if [ -f demo/.made-by-featstore-demo ]; then rm -rf demo; \
	  elif [ -e demo ]; then echo "./demo wasn't made by 'make demo', so it is left alone."; exit 1; fi

clean-venv: ## Delete .venv.
	@rm -rf $(VENV)
