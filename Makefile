# QRT-TN: `make run` and `make test` need Linux, Python >= 3.11, make and git; all else comes into .venv.
# The environment is made by constraints/set-up, once; it is redone only when the pins change.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint slurm format set-up set-up-dev clean

VENV := .venv
export PYTHON

help:
	@echo "make run      compute a winning ticket on the handwritten digits and write its report"
	@echo "make test     lint, type-check and test"
	@echo "make lint     ruff and mypy only"
	@echo "make format   let ruff tidy the source"
	@echo "make set-up   only make .venv"
	@echo "make clean    remove .venv, caches and build leftovers; results in runs/ stay"
	@echo
	@echo "PYTHON=python3.12 make run    choose the interpreter (3.11 or newer)"
	@echo 'make run ARGS="--help"        options for qrt-tn ticket'
	@echo 'make test ARGS="-k circuit"   options for pytest'

run: set-up
	$(VENV)/bin/qrt-tn ticket $(ARGS)

# Two workers, one thread each: the linear algebra of a test is too small to share between threads.
test: lint slurm
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 $(ARGS)

lint: set-up-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# For the tests that run on a cluster of two nodes on this machine; where it cannot be had they are skipped.
slurm: set-up-dev
	@constraints/set-up-slurm $(VENV)/slurm

format: set-up-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

set-up:
	@constraints/set-up $(VENV)

set-up-dev:
	@constraints/set-up $(VENV) dev

clean:
	@constraints/set-up $(VENV) remove
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
