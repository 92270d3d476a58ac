"""Settings that hold for every test."""

import ctypes
import gc
import importlib
import os
import pathlib
import sys
from collections import Counter

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What the tests run on JAX is small: it is compiled once and computed in no time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import numpy as np
import pytest

from keras_e2e.utils.compat import release_traces

# How many tests were run in this process.
STARTED = [0]
# The generators of NumPy that test files keep, each with its state after the imports.
GENERATORS: dict[int, tuple[np.random.BitGenerator, dict]] = {}


def pytest_configure(config):
    """The order of the tests is random, their numbers are not (`start_afresh`)."""
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


def pytest_addoption(parser):
    parser.addoption(
        "--quick",
        action="store_true",
        help="one case of each test, and none of those marked `slow` or `long`",
    )
    parser.addoption(
        "--cases",
        type=int,
        default=sys.maxsize,
        help="at most so many cases of a test, others in each run, as the order is random",
    )
    parser.addoption(
        "--all",
        action="store_true",
        help="every case, whatever `--cases` and the marks `sampled(n)` say",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """The long tests come first, so that no worker waits for another at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    quick, everything = config.getoption("--quick"), config.getoption("--all")
    most = 1 if quick else config.getoption("--cases")
    # Of each test the first cases: in a random order they are others in each run.
    cases, kept, left_out = Counter(), [], []
    for item in items:
        name, sampled = item.nodeid.split("[")[0], item.get_closest_marker("sampled")
        if quick and any(map(item.get_closest_marker, ("slow", "long"))):
            left_out.append(item)
            continue
        cases[name] += 1
        count = sampled.args[0] if sampled and not quick else most
        (kept if everything or cases[name] <= count else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_collection_finish(session):
    """Spares the garbage collector what the imports left: it stays to the end."""
    for module in {getattr(item, "module", None) for item in session.items}:
        for value in vars(module).values() if module else ():
            if isinstance(value, np.random.Generator):
                GENERATORS[id(value)] = value.bit_generator, value.bit_generator.state
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)  # a tenth of the time went into looking for garbage


def give_back_memory():
    """Collects models that refer to themselves, and hands freed memory back.

    Without it a worker grows beyond 3 GB: the collector hardly runs, and the C library
    keeps what was freed.
    """
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def pytest_runtest_logfinish(nodeid, location):
    STARTED[0] += 1
    if STARTED[0] % 100 == 0:
        give_back_memory()


def start_afresh():
    """One seed, the generators of all files at their start, fresh names of layers."""
    release_traces()
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    for generator, state in GENERATORS.values():
        generator.state = state


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """What several tests share is the same whichever of them comes first."""
    if fixturedef.scope != "function":
        start_afresh()
    return (yield)


@pytest.fixture(scope="session")
def benchmark_script():
    """Function that imports a script of `benchmarks/` by its name."""
    folder = str(pathlib.Path(__file__).parents[1] / "benchmarks")

    def script(name):
        sys.path.insert(0, folder)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(folder)

    return script


@pytest.fixture(autouse=True)
def fresh_keras():
    """Each test starts from one seed, fresh layer names and the default settings."""
    start_afresh()
    yield
    keras.config.set_dtype_policy("float32")
