"""Workers on several hosts train one model, and the chief decides for all."""

import contextlib
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


def free_addresses(count):
    """As many addresses of this machine that nobody listens on."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("localhost", 0))
        return [f"localhost:{probe.getsockname()[1]}" for probe in probes]


def started(output, *arguments, module="tests.callbacks.worker"):
    """A worker that writes to files: none waits for its output to be read."""
    with open(f"{output}.out", "w") as found, open(f"{output}.err", "w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"},
            stdout=found,
            stderr=errors,
        )


def trained(count, folder, logs):
    """What each of so many workers found, who write to one folder of `logs` each."""
    addresses = ",".join(free_addresses(count))
    workers = [started(folder / f"{i}", i, addresses, logs / f"{i}") for i in range(count)]
    try:
        for number, worker in enumerate(workers):
            status = worker.wait(timeout=1800)
            assert status == 0, (folder / f"{number}.err").read_text()[-3000:]
    finally:
        for worker in workers:
            worker.kill()
    outputs = [(folder / f"{i}.out").read_text() for i in range(count)]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.slow
def test_two_workers_train_as_one_and_the_chief_decides(tmp_path):
    logs = tmp_path / "logs"
    chief, other = trained(2, tmp_path, logs)
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
    assert other["asked"] == 0 < chief["asked"] == len(chief["modes"])
    assert chief["modes"] == other["modes"] == ["end_to_end", "local", "local"] * 20
    assert chief["of a generator"] == other["of a generator"] == 5  # none is lost
    several_steps, empty_part = chief["refused"]
    assert "steps_per_execution=1" in several_steps and "2 replicas" in empty_part
    assert chief["refused"] == other["refused"]
    assert {path.name for path in logs.iterdir()} == {"0", "0.csv"}  # the chief writes
    assert len((logs / "0.csv").read_text().splitlines()) == 2
    assert (logs / "0" / "best.keras").exists() and (logs / "0" / "board").exists()
