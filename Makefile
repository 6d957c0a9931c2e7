# The only list of commands: README and CI use these. PIP_ARGS goes to pip.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo quick test test-slow faults check lock bench fmt

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
		--report $(VENV)/installed-$$(date +%s).json -e '.[test,demo]'
	touch $@

demo: setup
	$(BIN)/embatch demo

# Pure functions: keys, plans, commits, sources, batches, pixels, figures, and the rules of the house.
# No Ray, no models but tiny ones; under a minute. Exact neighbours alone would take as long.
QUICK := tests/schemas tests/sources tests/actors/engine tests/actors/files tests/actors/images \
	tests/jobs/analysis --ignore=tests/jobs/analysis/test_nearest.py \
	tests/house/test_house.py tests/house/test_imports.py tests/house/test_mirror.py
quick: setup
	$(BIN)/python -m pytest $(QUICK) $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout=3600

N ?= 30
SEED ?= 1
faults: setup
	@PYTHONPATH=. $(BIN)/python -m tests.faults.campaign --n $(N) --seed $(SEED)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.house.audit $(VENV)

# The index tells the hashes of each version's files, for all platforms; --upgrade keeps no old one.
lock: setup
	$(BIN)/uv pip compile constraints.txt --no-deps --universal --upgrade --quiet --generate-hashes \
		--no-annotate --custom-compile-command 'make lock' --output-file constraints.lock

bench: setup
	$(BIN)/python -m benchmarks.encode --quick
	$(BIN)/python -m benchmarks.memory

fmt: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
