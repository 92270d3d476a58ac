"""A Dask scheduler and workers that are started by hand, as on a cluster."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time


@contextlib.contextmanager
def cluster(folder, *, workers):
    """Yields the address of the scheduler, its process, and that above the workers'."""
    file = folder / "scheduler.json"
    common = ["--host=127.0.0.1", "--no-dashboard", f"--scheduler-file={file}"]
    scheduler = ["-m", "distributed.cli.dask_scheduler", "--port=0", *common]
    worker = ["-m", "distributed.cli.dask_worker", "--nthreads=1", *common]
    worker += [f"--nworkers={workers}", f"--local-directory={folder}"]
    with contextlib.ExitStack() as stack:
        started = []
        for arguments in (scheduler, worker):
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(process.wait)
            # With the processes that it started, which takes less time than asking.
            stack.callback(kill, process)
            started.append(process)
        until(lambda: file.exists() and file.read_text().endswith("}"))
        yield json.loads(file.read_text())["address"], *started


def kill(process):
    """Kills a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def until(condition, seconds=120):
    """Waits until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
