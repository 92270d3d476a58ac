# Each target works alone on a fresh clone: Python 3.11 or later, make and git are enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test test-quick test-jax test-lower-bounds lint docs bench dist test-wheel clean

setup: $(STAMP)

# The stamp is touched last, so an interrupted install is done again.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: export TF_CPP_MIN_LOG_LEVEL = 3
demo: setup
	$(BIN)/keras-e2e demo --output_dir=demo_output

test test-quick test-jax test-lower-bounds: export TF_CPP_MIN_LOG_LEVEL = 2

# worksteal hands out tests in runs of neighbors and evens out the workers at the end, so
# the few slow files do not leave one of them idle. Three for two cores: a fifth of the time
# a worker waits, for a process, a file or a browser.
# Two cases of each test, others in each run; all of them are about twice as many.
# OPTIONS are pytest's: `make test OPTIONS=--all`, `make test-jax OPTIONS=--quick`.
PYTEST = -m pytest -n 3 --dist worksteal --cases=2 $(OPTIONS)

test: setup
	$(BIN)/python $(PYTEST) --doctest-modules tests keras_e2e

# One case of each test, another in each run, and none of the slow ones.
test-quick: setup
	$(BIN)/python $(PYTEST) --quick --doctest-modules tests keras_e2e

# The promises of tests/conformance/ that apply on JAX, of which `make test` has isolation
# alone, and the quantities.
ON_JAX := end_to_end_is_stock everywhere isolation refusals registry rewards strip switching

test-jax: setup
	KERAS_BACKEND=jax $(BIN)/python $(PYTEST) $(ON_JAX:%=tests/conformance/test_%.py) \
		tests/diagnostics

# The oldest Keras and TensorFlow that pyproject.toml allows, in an environment of their own:
# without JAX, which needs newer packages than TensorFlow 2.18 bears, and without a browser.
LOWER := .venv-lower

test-lower-bounds:
	$(PYTHON) -m venv $(LOWER)
	$(LOWER)/bin/python -m pip install -q --disable-pip-version-check \
		-c .ci/lower-bounds.txt -e '.[dashboard,demo,limits,report,rewards]' \
		psutil pytest pytest-randomly pytest-xdist
	$(LOWER)/bin/python $(PYTEST) -o filterwarnings= -k "not jax" tests \
		--ignore tests/visualization/tensorboard/test_plugin_page.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/structure.py

# Strict: a broken link or a missing reference fails. The site opens from site/index.html.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Each benchmark writes its JSON to benchmarks/results/ by default.
bench: setup
	@mkdir -p benchmarks/results
	@set -e; for script in benchmarks/[!_]*.py; do \
		echo "== $$script"; \
		$(BIN)/python "$$script"; \
	done

# The sdist and the wheel made of it, looked at as an index does.
dist: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[release]'
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# The wheel as a user installs it: the blocks of README.md, a user's file for the type
# checker, and the command. They run in dist/, so that the package here is not found.
WHEEL := .venv-wheel

test-wheel: dist
	$(PYTHON) -m venv --clear $(WHEEL)
	$(WHEEL)/bin/python -m pip install -q --disable-pip-version-check \
		"$$(echo dist/*.whl)[dashboard,demo,report,rewards]" mypy pytest pytest-randomly
	cd dist && ../$(WHEEL)/bin/pytest -c ../setup.cfg \
		../tests/test_readme.py ../tests/test_type_checking.py ../tests/test_imports.py
	$(WHEEL)/bin/keras-e2e --version

# Leaves benchmarks/results/: measurements are dear.
clean:
	rm -rf .venv .venv-lower .venv-wheel build dist *.egg-info demo_output site
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
