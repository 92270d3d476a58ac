"""Callbacks count steps where a strategy mirrors the optimizer's variables."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_steps_are_counted_under_a_mirrored_strategy():
    done = subprocess.run(
        [sys.executable, "-m", "tests.callbacks.mirrored"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-2:] == [
        "[[1, 3, 5, 7], [1, 4, 7], [9, 11]]",
        "['end_to_end', 'local', 'local', 'local']",
    ]
