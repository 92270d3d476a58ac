"""Where runs are computed: Dask workers, of our own or of a cluster that exists."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits.setting import Setting

# Seconds until a scheduler must have answered.
TIMEOUT = 10

# Keras's seed is one for the process, and the models are shared by its runs.
_ONE_AT_A_TIME = threading.Lock()


def work(setting: Setting) -> dict[str, Any]:
    """One run, on a worker, with a single TensorFlow thread.

    So that a run does not depend on how many cores its machine has: sums in another order
    may differ in the last bits.
    """
    # Here, as the process that writes the results needs neither.
    import tensorflow as tf

    from keras_e2e.experiments.limits import run

    with _ONE_AT_A_TIME:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        return run.run(setting)


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
