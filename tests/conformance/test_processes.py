"""The promises that take a process of their own: under XLA, and on JAX."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

HERE = pathlib.Path(__file__).parent
# Finite differences were compared on TensorFlow: the losses are the same code.
ON_JAX = "not is_that_of_its_loss and not those_of_the_whole_loss"


def run(*arguments, **environment):
    """Runs pytest on files of this folder; what failed is in the message."""
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    found = subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        env={**os.environ, "PYTEST_ADDOPTS": "", **environment},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert "passed" in found.stdout


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="this is the run"),
]


def test_the_promises_to_the_bit_hold_under_xla():
    run("-k", "not of_the_graph", HERE / "under_xla.py")


def test_steps_under_xla_are_those_of_the_graph():
    """Of one objective, another in each run; `under_xla.py`, run by itself, has all."""
    # What is equal within a tolerance anyway is compiled in less time and memory.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    run("-k", "of_the_graph", HERE / "under_xla.py", "--quick", XLA_FLAGS=flags)


def test_isolation_holds_on_jax():
    """One case of each test, another in each run; `make test-jax` has all."""
    run("-k", ON_JAX, HERE / "test_isolation.py", "--quick", KERAS_BACKEND="jax")
