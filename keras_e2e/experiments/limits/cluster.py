"""Where runs are computed: Dask workers, of our own or of a cluster that exists."""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Reschedule, Status, Worker, get_worker

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits.setting import Setting

# Seconds until a scheduler must have answered.
TIMEOUT = 10

# Bytes that a worker's process may grow by before another one takes its place.
GROWTH = 2 * 10**9

# Seconds until the results of a worker must have been fetched for that.
PATIENCE = 10

# Keras's seed is one for the process, and the models are shared by its runs.
_ONE_AT_A_TIME = threading.Lock()


def on_worker(run: Callable[[Setting], dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """One run, on a worker that is no larger than it may be.

    TensorFlow keeps a part of all that it traces. A worker that has grown by `GROWTH` since
    its first run gives this one back before it begins, and its nanny starts another process
    in its place. A worker without a nanny, or one that holds results which nobody fetches
    within `PATIENCE`, runs it as it is.

    Args:
        run: Function from a setting to its result.
        setting: The `Setting` to run.

    Raises:
        Reschedule: If the worker starts anew: Dask then gives the run to another one.
    """
    with _ONE_AT_A_TIME:
        worker = get_worker()
        first = _memory_at_first(worker)
        if worker.monitor.get_process_memory() - first > GROWTH and worker.nanny:
            _start_anew(worker)
        return run(setting)


def work(setting: Setting) -> dict[str, Any]:
    """One run, with a single TensorFlow thread.

    So that a run does not depend on how many cores its machine has: sums in another order
    may differ in the last bits.
    """
    # Here, as the process that writes the results needs neither.
    import tensorflow as tf

    from keras_e2e.experiments.limits import run

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return run.run(setting)


@functools.cache
def _memory_at_first(worker: Worker) -> int:
    """The bytes of a worker's process when it was given its first run."""
    return worker.monitor.get_process_memory()


def _start_anew(worker: Worker) -> None:
    """Raises Reschedule and closes the worker, unless results would be lost with it."""
    end = time.monotonic() + PATIENCE
    # Without another worker to take them, what was not fetched would be computed again.
    while worker.data:
        if time.monotonic() > end:
            return
        time.sleep(0.01)
    worker.loop.add_callback(worker.close_gracefully, restart=True, reason="has grown")
    # Not before the scheduler knows, or it could give the run back to this worker.
    while worker.status == Status.running and time.monotonic() < end:
        time.sleep(0.01)
    raise Reschedule


@contextlib.contextmanager
def connected(scheduler: str | None = None, workers: int | None = None) -> Iterator[Client]:
    """A client of a cluster; a cluster of our own ends with the context.

    Args:
        scheduler: String, the address of a Dask scheduler, such as
            "tcp://10.0.0.1:8786". It and its workers need this package, in the same
            version. Defaults to None: a cluster of processes is started on this machine.
        workers: Integer, the processes of a cluster of our own. Defaults to None: one for
            each CPU.

    Raises:
        CommandError: If no scheduler answers at the address.
    """
    if scheduler is not None:
        with _client(scheduler) as client:
            yield client
        return
    # Before the process starts: the environment counts from TensorFlow's import on.
    environment = {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # Workers share a GPU, if there is one.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }
    }
    with (
        dask.config.set(environment),
        LocalCluster(
            n_workers=workers or CPU_COUNT,
            threads_per_worker=1,
            processes=True,
            # A limit would kill workers for what TensorFlow keeps for its next run.
            memory_limit=0,
            # None would take port 8787, on all interfaces.
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _client(address: str) -> Client:
    try:
        return Client(address, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise CommandError(
            f"--scheduler={address}: no Dask scheduler answers there ({error}). Start one "
            "with `dask scheduler` and give the address that it prints, or leave the flag "
            "out to use this machine."
        ) from error
