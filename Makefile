# Two commands set everything up: `make demo` and `make test`. The virtual environment is made when it is missing or
# pyproject.toml has changed.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
COMMA := ,
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)

.PHONY: demo test test-slow test-lowest test-newest test-real real-models lint docs bench bench-gpu dist clean

# With the embedded model, offline; or `make demo MODEL=…`, a name on the Hub, a folder, a GGUF file or an adapter;
# `make demo MODEL=echo-smollm2 BASE=model.gguf` where the adapter's base is not to come from the Hub.
demo: $(VENV)/.$(if $(MODEL),chroma$(COMMA)gguf$(COMMA)adapters,chroma)
	$(BIN)/python examples/chroma_quickstart.py $(if $(MODEL),--model $(MODEL)) $(if $(BASE),--base $(BASE))

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow

# The oldest and the newest of what pyproject.toml promises, each in an environment of its own.
test-lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

test-newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

# Pretrained models to test and measure on: all, or `make real-models MODELS=smollm2`.
real-models: $(BIN)/python
	$(BIN)/python tests/real/fetch.py $(MODELS)

test-real: $(VENV)/.dev
	$(BIN)/python -m pytest -q -rs -m "real and not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site. Its tools read the source and import nothing, so that the package need not be installed.
docs: $(BIN)/python
	$(PIP) zensical 'mkdocstrings[python]'
	$(BIN)/zensical build --clean --strict

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.speed --quick

bench-gpu: $(VENV)/.dev
	$(BIN)/python -m benchmarks.speed.gpu

# Wheel and source distribution, checked, and the README's first lines run with the wheel in a clean environment.
dist: $(BIN)/python
	rm -rf dist .venv-dist
	$(PIP) build twine
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS) dist/*.whl
	env -u PYTHONPATH .venv-dist/bin/python tests/installed.py
	rm -rf .venv-dist

clean:
	rm -rf .venv .venv-* .demo .cache .pytest_cache .hypothesis .mypy_cache .ruff_cache dist build site

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed; none was found on PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The environment with one extra of pyproject.toml.
$(VENV)/.%: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(PIP) -e '.[$*]'
	@touch $@
