"""On JAX `keras.distribution` trains what one device trains, in every mode."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.slow
def test_four_devices_train_what_one_does():
    cases = ("end_to_end", "sequential", "supcon", "vicreg")
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainers.jax.sharded", *cases],
        cwd=ROOT,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "compared"
