# Every target makes what it needs first; `make` alone says what there is.
.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-long test-forward lint audit bench parity parity-1 parity-2 clean

ifneq ($(wildcard ../shared/data),)
export FP_TFRS_DATA_DIR ?= $(CURDIR)/../shared/data
endif

help:
	@echo 'make run        simulated log -> trained, judged and pushed model, in runs/quickstart'
	@echo 'make test       all tests but the long ones'
	@echo 'make test-unit  the tests without whole pipeline runs, browsers, servers, combinations and real data'
	@echo 'make test-long  the long tests: minutes each, on real data where FP_TFRS_DATA_DIR has it; prints figures'
	@echo 'make test-forward  test-unit with TFX 1.21, in a Debian 13 of its own: for machines with an older C library, as root'
	@echo 'make lint       style and types'
	@echo 'make audit      known vulnerabilities of the locked packages; asks PyPI about each'
	@echo 'make parity     the towers beside published figures: two processes for hours; goes on where it was stopped'
	@echo 'make bench      speed beside RecBole and the limits of the machine: hours, on an idle one; goes on where it was stopped'
	@echo 'make setup      only make .venv'
	@echo 'make clean      remove what make made: .venv, runs/quickstart, caches'

setup:
	@sh bootstrap.sh

run: setup
	@.venv/bin/fp-tfrs run --config configs/quickstart.yaml --root runs/quickstart

# A process a core, a file of tests at a time, since its tests share what is costly to make.
PYTEST := .venv/bin/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile

test: setup
	$(PYTEST) -m 'not long'

test-unit: setup
	$(PYTEST) -m 'not e2e and not matrix and not real_data and not long'

# One at a time: they measure time and memory.
test-long: setup
	.venv/bin/python -m pytest -m long

test-forward:
	@sh forward.sh test-unit

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Strict: a package that PyPI does not know is a failure; otherwise an audit that has seen nothing would find nothing.
audit: setup
	.venv/bin/python -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit
	for lock in requirements.lock requirements-forward.lock; do \
	  build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $$lock || failed=1; \
	done; exit $${failed:-0}

parity: setup
	@$(MAKE) --no-print-directory -j2 parity-1 parity-2
	@.venv/bin/python benchmarks/parity.py --list

bench: setup
	@sh benchmarks/peers/setup.sh runs/peers-venv
	@.venv/bin/python -m benchmarks.bench

# The processes share the work by lock files.
parity-1 parity-2:
	@.venv/bin/python benchmarks/parity.py

clean:
	rm -rf .venv runs/quickstart build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
