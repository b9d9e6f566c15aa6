# Everything here creates .venv on first use and keeps it; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: help demo test lint types bench gpu
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade-strategy only-if-needed --editable '.[dev]'
	touch $@

demo: $(VENV)/installed  ## compress a photo with our codecs, decode it in fresh processes, show the result
	$(PY) -m diffpress.commands.demo --out demo_out

test: $(VENV)/installed  ## run the tests, a process for each core
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: $(VENV)/installed  ## ruff: errors, style, import order
	$(PY) -m ruff check .

types: $(VENV)/installed  ## mypy: types; pyright: an editor resolves every import
	cd .ci/types && ../../$(PY) -m mypy --config-file ../../pyproject.toml -p diffpress
	$(PY) -m pyright --pythonpath $(PY)

bench: $(VENV)/installed  ## the measurements behind docs/results/coders.md and docs/models.md (long)
	$(PY) benchmarks/rcc.py
	$(PY) benchmarks/rcc_speed.py
	$(PY) benchmarks/diffc_latent.py

gpu: $(VENV)/installed  ## on a GPU: tests, files exchanged with the CPU, speed; writes docs/results/gpu.md (nine minutes)
	@$(PY) benchmarks/gpu.py || [ $$? -eq 3 ]  # 3: there is no device, which the program has said
