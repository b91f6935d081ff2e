# Everything runs in .venv, which install.py makes from locks/ on the first call.
#   PYTHON=python3.12  the Python to make .venv with (3.11 to 3.13)
#   LOCK=cpu | gpu     the packages to install; without it: gpu where nvidia-smi works
#   WORKERS=2          processes that share the tests
.DEFAULT_GOAL := help
.PHONY: help quickstart test lint environment lock clean

SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first that is of a supported version; python3 where none is, so that install.py can say so.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && exit; done; echo python3)
LOCK ?= auto
WORKERS ?= 2
BIN := .venv/bin
# Node comes from a wheel and pyright from its own, so that nothing is downloaded at check time.
PYRIGHT := PYRIGHT_PYTHON_GLOBAL_NODE=off PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

help:
	@echo "make quickstart   install what is missing and fine-tune a small model on six tasks"
	@echo "make test         install what is missing, check the code and run the tests"
	@echo "make lint         the code checks alone"
	@echo "make lock         resolve the pinned packages anew (needs uv)"
	@echo "make clean        remove .venv, runs/ and caches"

quickstart: environment
	@$(BIN)/msft-lite run recipes/quickstart.toml --overwrite

test: lint
	$(BIN)/python -m pytest --cov --numprocesses $(WORKERS) --dist loadfile

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(PYRIGHT) --pythonpath $(BIN)/python

environment:
	@$(PYTHON) install.py --lock $(LOCK)

# A lock must hold for every Python: each resolution starts from the pins of the one before.
UV ?= uv
RESOLVE = $(UV) pip compile pyproject.toml --extra dev --python-platform x86_64-manylinux_2_28 \
	--no-annotate --no-header --quiet
lock:
	for version in 3.11 3.12 3.13; do \
		$(RESOLVE) --extra cpu --overrides locks/cpu-overrides.txt --python-version $$version \
			--extra-index-url https://download.pytorch.org/whl/cpu \
			--index-strategy unsafe-best-match --output-file locks/cpu.txt || exit 1; done
	for version in 3.11 3.12 3.13; do \
		$(RESOLVE) --extra gpu --overrides locks/gpu-overrides.txt --python-version $$version \
			--output-file locks/gpu.txt || exit 1; done

clean:
	rm -rf .venv runs .coverage .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
