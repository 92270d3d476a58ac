"""Workers on several hosts train one model, and the chief decides for all."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.callbacks.worker import stock, trained_locally

ROOT = pathlib.Path(__file__).parents[2]


def free_ports(count):
    """The first of so many ports, one after another, that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        first = probe.getsockname()[1]
    return first if first + count < 65536 else free_ports(count)


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.callbacks.worker", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(count, folder):
    """What each of so many workers found, who write to one folder each."""
    port = free_ports(count)
    workers = [started(i, count, port, folder / str(i)) for i in range(count)]
    try:
        ended = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, errors) in zip(workers, ended, strict=True):
        assert worker.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in ended]


@pytest.mark.slow
def test_two_workers_train_as_one_and_the_chief_decides(tmp_path):
    chief, other = trained(2, tmp_path)
    alone = trained_locally() | stock(None)
    for key in ("history", "evaluated", "predicted", "weights", "stock"):
        assert chief[key] == other[key]
    for key in ("weights", "stock"):
        for mine, theirs in zip(chief[key], alone[key], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
    np.testing.assert_allclose(chief["predicted"], alone["predicted"], atol=1e-6)
    np.testing.assert_allclose(chief["evaluated"], alone["evaluated"], rtol=1e-5)
    assert set(chief["history"]) == set(alone["history"])
    for key, values in alone["history"].items():
        np.testing.assert_allclose(chief["history"][key], values, rtol=1e-4, err_msg=key)

    assert len(chief["decisions"]) > 1  # each hangs on every bit of what was measured
    for key in ("decisions", "measured", "verdicts", "switched"):
        assert chief[key] == other[key]
    assert "steps_per_execution=1" in chief["refused"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["0"]  # the chief writes
