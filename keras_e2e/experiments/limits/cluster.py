"""Where runs are computed: Dask workers, of our own or of a cluster that exists."""

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
import weakref
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

# The bytes of each worker's process after its first run.
_FIRST: weakref.WeakKeyDictionary[Worker, int] = weakref.WeakKeyDictionary()

# Keras's seed is one for the process, and the models are shared by its runs.
_ONE_AT_A_TIME = threading.Lock()


def on_worker(run: Callable[[Setting], dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """One run, on a worker that is no larger than it may be.

    A worker that has grown by `GROWTH` since its first run gives this one back before it
    begins and ends, and its nanny starts another process in its place. A worker without a
    nanny, or one that holds results which nobody fetches within `PATIENCE`, runs it as it
    is.

    Args:
        run: Function from a setting to its result.
        setting: The `Setting` to run.

    Raises:
        Reschedule: If the worker ends: Dask then gives the run to another one.
    """
    with _ONE_AT_A_TIME:
        worker = get_worker()
        memory = worker.monitor.get_process_memory
        if worker.nanny and memory() - _FIRST.get(worker, math.inf) > GROWTH:
            _start_anew(worker)
        try:
            return run(setting)
        finally:
            _FIRST.setdefault(worker, memory())


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


def _start_anew(worker: Worker) -> None:
    """Raises Reschedule and ends the worker's process, unless results would go with it."""
    end = time.monotonic() + PATIENCE
    while worker.data:
        if time.monotonic() > end:
            return
        time.sleep(0.01)
    # In this order, and before Dask hears of this run: nothing else begins here any more.
    worker.loop.add_callback(setattr, worker, "status", Status.closing_gracefully)
    worker.loop.add_callback(_end, worker, worker.get_current_task())
    raise Reschedule


async def _end(worker: Worker, key: Any) -> None:
    """Ends the process once the scheduler has taken back the run of this key.

    Not by `Worker.close_gracefully(restart=True)`, as of `dask worker --lifetime-restart`:
    a worker that hears from its scheduler at the wrong moment takes its nanny along
    (dask/distributed#4752). A process that died is always replaced.
    """
    address = worker.address
    try:
        while key in (await worker.scheduler.processing(workers=[address])).get(
            address, ()
        ):
            await asyncio.sleep(0.01)
    finally:  # also of a scheduler that does not answer
        os._exit(0)


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
    settings = {
        # Before the process starts: the environment counts from TensorFlow's import on.
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # Workers share a GPU, if there is one.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        },
        # A run that waits on a worker would be blamed for its death.
        "distributed.scheduler.worker-saturation": 1.0,
        # A worker whose process is being replaced when this ends would be given up.
        "distributed.deploy.lost-worker-timeout": "365 days",
    }
    with (
        dask.config.set(settings),
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
