# make demo    render examples/jobs.csv on this machine: installs, builds the demo engines, starts Redis and a worker
# make test    every test that needs neither a GPU nor containers
# make test-deploy  the tests of images, Compose, Kubernetes and monitoring (deploy/README.md says what they need)
# make test-fast  the tests without processes, sleeps and heavy builds, in under a minute: between two edits
# make check   ruff and mypy
# make stress  the tests ten times beside busy processes, and as another user: STRESS="--minutes 50" (tools/stress.py)
# make chaos   break a running batch on purpose and check that nothing is lost: RUNS=10 SEED=1 (docs/operations.md)
# make fuzz    look for inputs that break something, for FUZZ_SECONDS (600)
# make clean   remove what these made; make clean-demo: only the demo's
#
# A fresh machine needs python3 (3.11 to 3.13) and make. PYTHON=python3.12 picks another interpreter. TORCH=... another
# torch: on Linux the package index serves the CUDA build, which also runs without a GPU, but is large.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
FUZZ_SECONDS ?= 600
BIN := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-deploy test-fast stress check chaos fuzz clean clean-demo help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'

demo: $(VENV)/.demo
	@$(BIN)/python -m tools.demo

test: $(VENV)/.dev
	@tools/test.sh

test-deploy: $(VENV)/.dev
	@tools/test_deploy.sh

FAST := not gpu and not deploy and not processes and not models and not slow

test-fast: $(VENV)/.dev
	@tools/test.sh -q -m "$(FAST)"

STRESS ?=

stress: $(VENV)/.dev
	@$(BIN)/python -m tools.stress $(STRESS)

check: $(VENV)/.dev
	@tools/check.sh

RUNS ?= 1
SEED ?= 1

chaos: $(VENV)/.dev
	@$(BIN)/python -m tools.chaos --runs $(RUNS) --seed $(SEED)

fuzz: $(VENV)/.dev
	@$(BIN)/python -m tools.fuzz --seconds $(FUZZ_SECONDS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "python 3.11 to 3.13 is needed; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# torch by itself first: the index's default for a range would be a newer and much larger build.
$(VENV)/.torch: $(VENV)/bin/python
	@echo "installing torch" >&2
	@$(BIN)/python -m pip install -q "$(TORCH)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "installing batch-renderer" >&2
	@$(BIN)/python -m pip install -q -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing what the tests need" >&2
	@$(BIN)/python -m pip install -q -e '.[dev]'
	@# Type stubs, 0.1 MB. They depend on TensorRT itself, which the package index does not hold whole.
	@$(BIN)/python -m pip install -q --no-deps tensorrt-stubs==10.13.0.35.1
	@touch $@

clean-demo:
	rm -rf .demo demo-output

clean: clean-demo
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
