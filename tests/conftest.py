"""Settings that hold for every test."""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What the tests run on JAX is small: it is compiled once and computed in no time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import keras
import numpy as np
import pytest

from keras_e2e.utils.compat import release_traces

# The generators of NumPy that test files keep, each with its state after the imports.
GENERATORS: dict[int, tuple[np.random.BitGenerator, dict]] = {}


def pytest_configure(config):
    """The order of the tests is random, their numbers are not (`start_afresh`)."""
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


def pytest_collection_finish(session):
    """Spares the garbage collector what the imports left: it stays to the end."""
    for module in {getattr(item, "module", None) for item in session.items}:
        for value in vars(module).values() if module else ():
            if isinstance(value, np.random.Generator):
                GENERATORS[id(value)] = value.bit_generator, value.bit_generator.state
    gc.collect()
    gc.freeze()


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


@pytest.fixture(autouse=True)
def fresh_keras():
    """Each test starts from one seed, fresh layer names and the default settings."""
    start_afresh()
    yield
    keras.config.set_dtype_policy("float32")
