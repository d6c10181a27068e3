# Every target that needs the environment sets it up first; install.sh ends at once when nothing changed.

PYTHON := .venv/bin/python
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
SEED ?= 1
# No test may reach a model hub; threads beyond the cores, or one pool inside another, only slow a small machine down.
TEST_ENV := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(CORES)}

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-media test-training eval-mini ablate check bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

install:  ## set up .venv (cpu or cuda, found by itself; ./install.sh --help says more)
	@./install.sh

demo: install  ## ask the embedded model three questions about a clip with sound
	@$(PYTHON) -m serving.demo

serve: install  ## start the OpenAI-compatible server
	@$(PYTHON) -m serving

test: install  ## run the tests (without media and slow)
	$(TEST_ENV) $(PYTHON) -m pytest

test-media: install  ## run the container matrix over sample files, fetched first
	samples=$$(tests/fetch_iscc_samples.sh) && FAVOR_ISCC_SAMPLES=$$samples $(TEST_ENV) $(PYTHON) -m pytest -m media

test-training:  ## run the long training tests too: two processes, DeepSpeed ZeRO-1/2/3, killed and resumed
	@./install.sh train
	$(TEST_ENV) $(PYTHON) -m pytest -m "slow or not slow" tests/training

eval-mini: install  ## ask favor-mini about clips it never met, and compare with its model card (SEED=1)
	@$(PYTHON) -m training examine favor-mini --seed $(SEED) --against favor/presets/favor-mini/scores.json

check: install  ## lint, format and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: install  ## run the benchmarks; each prints one JSON line at its end
	@$(PYTHON) -m benchmarks.attention
	@$(PYTHON) -m benchmarks.causal_qformer
	@$(PYTHON) -m benchmarks.training_throughput

ablate: install  ## how exactly steps can be read off the soft tokens of 14 connectors, a proxy (under 2 hours)
	@$(PYTHON) -m training ablate

clean:  ## remove caches and build output (.venv stays)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
