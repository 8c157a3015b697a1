# Everything runs from .venv, which is made from requirements.lock. Python 3.11+, make and git are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
# Tests that start servers mostly wait: a worker more than there are cores. Each costs seconds to begin.
WORKERS ?= $(shell expr $$(nproc) + 1)
.PHONY: help install run schedule servers test quick chaos bench check lint types layers lock clean

help: ## show these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/installed: requirements.lock pyproject.toml
	@echo "making $(VENV) from requirements.lock (some minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "genforge needs Python 3.11 or newer; say PYTHON=python3.12 make run")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

install: $(VENV)/installed ## the environment alone, in .venv

run: $(VENV)/installed ## the whole pipeline as a flow, ending with the leaderboard
	@genforge run

schedule: $(VENV)/installed ## retrain as `schedule:` of params.yaml says, in clones of its own, until Ctrl-C
	@python -m pipelines.schedule

test: $(VENV)/installed ## every test
	@pytest -n $(WORKERS) --dist worksteal

quick: $(VENV)/installed ## the tests that take seconds
	@pytest -n $(WORKERS) --dist worksteal -m "not slow"

MINUTES := 10
SEED := 0
chaos: $(VENV)/installed ## random signals over everything that runs, then what was lost; longer: MINUTES=60, other: SEED=1
	@python tests/chaos/campaign.py --minutes $(MINUTES) --seed $(SEED)

# Images to measure on: FILES=folder with mnist/ and cifar10/; random ones of their size where there are none.
FILES := data/incoming
bench: $(VENV)/installed ## our speed beside others', into docs/benchmarks.md; one row: ONLY=unet, the missing ones: RESUME=1
	@python tests/benchmarks/table.py --files $(FILES) $(ONLY:%=--only %) $(RESUME:%=--resume)

servers: $(VENV)/installed ## PostgreSQL, MLflow, Prefect and a worker as processes on this machine, until Ctrl-C
	@python -m infra.servers

check: lint types layers ## lint, types and layers

lint: $(VENV)/installed
	@ruff check .
	@ruff format --check .

types: $(VENV)/installed
	@mypy

layers: $(VENV)/installed
	@lint-imports

lock: ## resolve the dependencies of pyproject.toml anew into requirements.lock
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra postgres --extra servers --no-header \
	  --no-annotate $(CUDA:%=--no-emit-package %) pyproject.toml --output-file requirements.lock

# torch pins the CUDA packages of its own build; a CPU build has none. So they are left to torch.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
  nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

clean: ## remove data and results made here; the environment and DVC's cache stay
	rm -rf data/raw data/prepared results .genforge mlflow.db mlruns dvc.lock
