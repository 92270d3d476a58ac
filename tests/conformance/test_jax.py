"""The modes and objectives on the JAX backend: the tests of isolation, once more."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="this is the run")
def test_isolation_holds_on_jax():
    here = pathlib.Path(__file__).parent
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-k",
            # Finite differences were compared on TensorFlow: the losses are the same code.
            "not is_that_of_its_loss and not those_of_the_whole_loss",
            str(here / "test_isolation.py"),
        ],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "passed" in run.stdout
