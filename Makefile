# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := $(BIN)/albert-deploy

# make export MODEL=org/name TASK=text-classification DATASET=sst2=path OUT=out/mine
MODEL    ?=
TASK     ?= auto
DATASET  ?=
VARIANTS ?= fp32,fp16,int8
OUT      ?= out
# GPUs that `make build` builds engines for; TensorRT-RTX needs none of them here.
TARGET   ?= sm86,sm89,sm120
ARGS     ?=
# What `make serve` serves; without it the shipped classifier.
DIR      ?=
# Processes that run tests; one that has none left takes some of another's.
JOBS     ?= 2
PYTEST    = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install export quantize validate build bench gpu-bench gpu-test serve serve-test size test \
	test-fast test-all fuzz check lint format types audit clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables: MODEL= TASK= DATASET=NAME=PATH OUT= VARIANTS= DIR= ARGS= JOBS= PYTHON= VENV="

install: $(VENV)/.installed ## Create .venv and install the project (second time: nothing)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cpu,export,openvino,rtx,dev]'
	@touch $@

export: install ## Export, quantize, validate: MODEL=... or, without it, both shipped samples
ifeq ($(MODEL),)
	$(RUN) release sample-sst2 --out $(OUT)/sample-sst2 --variants $(VARIANTS) $(ARGS)
	$(RUN) release sample-squad --out $(OUT)/sample-squad --variants $(VARIANTS) $(ARGS)
else
	$(RUN) release '$(MODEL)' --out '$(OUT)' --task '$(TASK)' --variants $(VARIANTS) \
		$(if $(DATASET),--dataset '$(DATASET)') $(ARGS)
endif

quantize: install ## Make the variants of the deployment directory OUT=... that are not up to date
	$(RUN) quantize '$(OUT)' --variants $(VARIANTS) $(ARGS)

validate: install ## Validate the deployment directory OUT=... on DATASET=...
	$(RUN) validate '$(OUT)' $(if $(DATASET),--dataset '$(DATASET)') $(ARGS)

ENGINES := fp32,fp16,int8-fp16
BASE    := $(OUT)/base
SAMPLE  := export/samples/sst2/data

# Without MODEL: the samples and ALBERT-base's geometry with random weights.
build: install ## Build TensorRT engines for TARGET=... of OUT=..., or of the samples and ALBERT-base
ifeq ($(origin OUT),file)
	$(foreach name,sample-sst2 sample-squad,\
		$(RUN) export $(name) --out $(OUT)/$(name) && \
		$(RUN) quantize $(OUT)/$(name) --variants $(ENGINES) && \
		$(RUN) build $(OUT)/$(name) --target $(TARGET) --variants $(ENGINES) $(ARGS) && ) true
	test -d $(BASE)-checkpoint || $(BIN)/python -m albert_deploy.export.samples.random base $(BASE)-checkpoint
	$(RUN) export $(BASE)-checkpoint --out $(BASE)
	$(RUN) quantize $(BASE) --variants $(ENGINES) --calibration sst2=$(SAMPLE) --samples 32
	$(RUN) build $(BASE) --target $(TARGET) --variants $(ENGINES) $(ARGS)
else
	$(RUN) build '$(OUT)' --target $(TARGET) $(ARGS)
endif

bench: $(VENV)/.peers ## Measure size, load time and latency of OUT=..., or of ALBERT-base geometry
	$(RUN) bench $(if $(filter out,$(OUT)),--random base,'$(OUT)') $(ARGS)

# NNCF, which the bench compares with, is large and needed for nothing else.
$(VENV)/.peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[peers]'
	@touch $@

GEOMETRIES ?= base xxlarge
gpu-bench: install ## Measure PyTorch, ONNX Runtime and TensorRT on this GPU, for docs/performance
	$(foreach geometry,$(GEOMETRIES),$(RUN) bench --gpu --random $(geometry) \
		--models '$(OUT)/gpu-models' --out docs/performance $(ARGS) &&) true

gpu-test: install ## Run the tests that need a GPU; without one they are skipped, with the reason
	@$(BIN)/python -c 'from albert_deploy.runtime.trt.gpu import probe; found = probe(); \
		print(*(gpu.name for gpu in found.devices), sep=", ") if found.devices else \
		print("No GPU here, so that every test is skipped:", found.why)'
	$(BIN)/python -m pytest -m gpu $(ARGS) tests

# Triton's package wants numpy 1, and so an environment of its own.
SERVER := $(VENV)-serve

$(SERVER)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(SERVER)
	$(SERVER)/bin/python -m pip install --quiet --upgrade pip
	$(SERVER)/bin/python -m pip install --quiet -e '.[cpu,serve]'
	@touch $@

# The shipped classifier, measured on this machine and bundled for Triton.
$(OUT)/served/bundle.json: $(VENV)/.installed
	test -f $(OUT)/sample-sst2/manifest.json || \
		$(RUN) release sample-sst2 --out $(OUT)/sample-sst2 --variants $(VARIANTS)
	$(RUN) bench $(OUT)/sample-sst2 --serving --variants fp32 --dataset sst2=$(SAMPLE)
	$(RUN) bundle $(OUT)/sample-sst2 --format triton --variants fp32 --license apache-2.0 --out $(OUT)/served

serve: install $(SERVER)/.installed $(if $(DIR),,$(OUT)/served/bundle.json) ## Serve DIR=..., or the shipped classifier, with Triton on this machine
	$(SERVER)/bin/albert-deploy serve '$(or $(DIR),$(OUT)/served)' $(ARGS)

serve-test: install $(SERVER)/.installed $(OUT)/served/bundle.json ## Test a real Triton: answers, faults, recovery, load
	ALBERT_DEPLOY_SERVER=$(abspath $(SERVER)/bin/albert-deploy) $(BIN)/python -m pytest -m serve tests/serving
	$(BIN)/python -m albert_deploy.scripts.tools.load_test $(OUT)/served \
		--server $(SERVER)/bin/albert-deploy --out $(OUT)/serving.json --plot $(OUT)/serving.svg $(ARGS)

size: install ## Measure the environment that answering needs, with OUT/sample-sst2 where it is there
	$(BIN)/python -m albert_deploy.scripts.tools.runtime_size $(wildcard $(OUT)/sample-sst2)

test: install ## Run the tests, but for those at full size
	$(PYTEST) -m 'not slow' $(ARGS)

test-fast: install ## Run the tests that take seconds
	$(PYTEST) -m 'not medium and not slow' $(ARGS)

test-all: install ## Run every test, full sizes and full data too; tell the longest
	$(PYTEST) --durations 25 $(ARGS)

fuzz: install ## Fuzz tokenization and decoding for 5 minutes
	ALBERT_DEPLOY_FUZZ_S=300 $(BIN)/python -m pytest -m fuzz $(ARGS)

check: lint types audit test-all ## Lint, format, types, known vulnerabilities and every test: what CI runs

audit: install ## Look the installed packages up among known vulnerabilities
	$(BIN)/python -m albert_deploy.scripts.tools.audit

# Editable installs of mapped folders are seen through by neither mypy nor import-linter: they read
# a tree of links.
TREE := .mypy_tree

$(TREE): ; @mkdir -p $@/albert_deploy && cd $@/albert_deploy && \
	ln -s ../../export ../../runtime ../../quantize ../../validation ../../scripts .

lint: install $(TREE) ## Lint, format, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(TREE) && PYTHONPATH=. ../$(BIN)/lint-imports ../pyproject.toml --no-cache

format: install ## Format the code and apply safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install $(TREE) ## Check the types
	cd $(TREE) && MYPYPATH=. ../$(BIN)/mypy --config-file ../pyproject.toml -p albert_deploy

clean: ## Remove what make and the tools created, but not OUT
	rm -rf $(VENV) $(SERVER) $(TREE) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
