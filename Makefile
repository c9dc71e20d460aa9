# make demo   real text → shards → a trained, evaluated, reported model, in minutes on a CPU
# make test   the tests
# make soak   the tests again with many more random cases and kills; an hour and more
# make gpu-check  on a machine with GPUs, once: the tests that need one, and layouts as measured and as planned; a report
# make bench  speed, as ratios; with TEXTS=texts.jsonl.gz also of preparation
# Each makes .venv with pinned dependencies first, if need be.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test soak gpu-check bench lint install clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: $(READY)

# The stamp is written last, so an interrupted installation is done again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; choose one with: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

demo: $(READY)
	$(BIN)/headrace prepare corpus=python_docs output=datasets/python_docs
	$(BIN)/headrace train experiment=demo data.path=datasets/python_docs
	$(BIN)/headrace evaluate source=runs/demo
	$(BIN)/headrace generate source=runs/demo prompt="Return the " tokens=60
	$(BIN)/headrace report source=runs/demo

# As many processes as there are cores, up to four: each loads torch.
test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup

# Random cases of the order and faults of the disk: 25 times as many as in `make test`. Kills of `prepare` and of `train`:
# 100 each. Lost ranks. Every guarantee is broken on purpose, in a copy. Ends with tables of what was found.
soak: $(READY)
	HEADRACE_SOAK=25 $(BIN)/python -m pytest tests/system tests/data_pipeline/test_order.py \
		tests/data_pipeline/test_store.py tests/data_pipeline/preparation/slurm tests/train/telemetry \
		tests/train/checkpoint/test_faults.py tests/train/serve tests/train/test_compilation.py

DATASET ?= datasets/python_docs
bench: $(READY)
	$(BIN)/python -m benchmarks $(DATASET) $(TEXTS)

gpu-check: $(READY) $(DATASET)
	$(BIN)/python -m benchmarks.gpu_check $(DATASET)

$(DATASET): | $(READY)
	$(BIN)/headrace prepare corpus=python_docs output=$@

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info
