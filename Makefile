# The first command creates the virtual environment $(VENV); later ones reuse it.
# Another interpreter or place: make test PYTHON=python3.12 VENV=/some/where
# Tests in more processes than two, or in one: make test WORKERS=4, WORKERS=0
# The newest releases that pyproject.toml allows: make test CONSTRAINTS=/dev/null VENV=/some/where

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
CONSTRAINTS ?= constraints.txt
KILLS ?= 50
SLURM_TESTS ?= tests/slurm tests/commands/test_shard_scale.py::TestSlurmArray

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-slurm soak lint format types imports docs check clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(INSTALLED)  ## simulate genomes, pretrain a small model on them, show what it learned
	$(BIN)/python -m spacescale.testing.demo

test: $(INSTALLED)  ## the default tests (CPU)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-long: $(INSTALLED)  ## whole runs in several processes, killed ones among them (CPU)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'long and not slow'

test-slurm: $(INSTALLED)  ## the jobs of slurm/, really training, on a private Slurm (CPU)
	@PATH=$$PATH:/usr/sbin; for program in slurmctld slurmd munged sbatch; do \
	  command -v $$program >/dev/null || { echo "Slurm is not installed (no $$program); on Debian" \
	  "or Ubuntu: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }; done
	$(BIN)/python -m pytest -m '' --durations=0 $(SLURM_TESTS)

soak: $(INSTALLED)  ## a run that is killed KILLS times, held against one that was not (CPU)
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  $(BIN)/python benchmarks/soak.py --kills $(KILLS) --out "$$folder/soak"

lint: $(INSTALLED)  ## style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(INSTALLED)  ## repair style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(INSTALLED)  ## static types
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(INSTALLED)  ## the floors: which part may import which
	$(BIN)/lint-imports

docs: $(INSTALLED)  ## guides and API reference as a site, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint types imports docs test test-long  ## all of the above

clean:  ## remove caches and build products; keeps $(VENV) and runs
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# torch comes first and alone: its pin decides, and no later package brings another one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but '$(PYTHON)' is not; name one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian or Ubuntu: apt-get install python3-venv make" >&2; \
	  exit 1; }
	$(BIN)/python -m pip install -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
