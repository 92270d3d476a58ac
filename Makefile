# Each target works alone on a fresh clone: Python 3.11 or later, make and git are enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test lint bench clean

setup: $(STAMP)

# The stamp is touched last, so an interrupted install is done again.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: export TF_CPP_MIN_LOG_LEVEL = 3
demo: setup
	$(BIN)/keras-e2e demo --output_dir=demo_output

# worksteal hands out tests in runs of neighbours and evens out the two workers at the
# end, so the few slow files do not leave one of them idle.
test: export TF_CPP_MIN_LOG_LEVEL = 2
test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal --doctest-modules tests keras_e2e

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/structure.py

# Each benchmark writes its JSON to benchmarks/results/ by default.
bench: setup
	@mkdir -p benchmarks/results
	@set -e; for script in benchmarks/[!_]*.py; do \
		echo "== $$script"; \
		$(BIN)/python "$$script"; \
	done

# Leaves benchmarks/results/: measurements are dear.
clean:
	rm -rf .venv build dist *.egg-info demo_output
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
