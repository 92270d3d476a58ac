"""Runs what is missing on the workers, and stores each result as it comes."""

import dataclasses
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from distributed import Client, KilledWorker, as_completed
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits.cluster import on_worker, work
from keras_e2e.experiments.limits.setting import Setting
from keras_e2e.experiments.limits.store import Store
from keras_e2e.experiments.progress import BarOrLines


class Failure(NamedTuple):
    """A run without a result.

    Attributes:
        setting: `Setting` that was to be run.
        why: String, the error that it raised.
    """

    setting: Setting
    why: str


def sweep(
    settings: Iterable[Setting],
    store: Store,
    client: Client,
    *,
    run: Callable[[Setting], dict[str, Any]] = work,
    title: str = "Runs",
    console: Console | None = None,
) -> list[Failure]:
    """Runs those of the settings that have no result yet.

    A run that raises does not stop the others and is not stored, so the next sweep tries
    it again. One whose worker dies is given to another worker. Those whose workers died
    time and again are run once more at the end, one by one, and fail only if their workers
    die then, too. Workers that have grown start anew between two runs (`cluster.GROWTH`).

    Args:
        settings: The `Setting`s to run; one that occurs twice is run once.
        store: The `Store` that keeps each result as soon as it is there.
        client: Client of the cluster. Workers need no access to the store.
        run: Function from a setting to its result, run on a worker. Defaults to
            `cluster.work`.
        title: String, stands before the progress bar. Defaults to `"Runs"`.
        console: Rich console for progress and failures. Defaults to None, the terminal.

    Returns:
        The runs that failed, in the order in which they did.

    Raises:
        CommandError: If the cluster is gone, or if the store cannot be written.
    """
    console = console or Console()
    missing = (setting for setting in settings if setting not in store)
    # Keys of this sweep's own: workers may still hold what another one computed.
    sweep_id = uuid.uuid4().hex
    waiting = {f"{sweep_id}-{setting.key()}": setting for setting in missing}
    if not waiting:
        return []
    if not client.nthreads():
        console.print(
            f"No workers at {client.scheduler.address} yet; start some with `dask worker "
            f"{client.scheduler.address} --nthreads=1`."
        )

    def submit(key: str, setting: Setting) -> Any:
        return client.submit(on_worker, run, setting, key=key)

    futures = [submit(key, setting) for key, setting in waiting.items()]
    failures, suspects = [], []
    with _progress(console) as progress:
        bar = progress.add_task(title, total=len(waiting))

        def settle(setting: Setting, future: Any) -> None:
            why = _stored(setting, future, store)
            if why is not None:
                failures.append(Failure(setting, why))
                progress.console.print(f"{words(setting)}: {why}", markup=False)
            progress.advance(bar)

        for future in as_completed(futures, loop=client.loop):
            setting = waiting[future.key]
            if future.status == "error" and isinstance(future.exception(), KilledWorker):
                suspects.append(setting)
            else:
                settle(setting, future)
            future.release()  # so that its worker can forget the result
        # Dask blames a death on all that its worker was given, also on what only waited
        # there. Who does it when nothing else is about did it.
        for setting in suspects:
            settle(setting, submit(f"{sweep_id}-alone-{setting.key()}", setting))
    return failures


def words(setting: Setting) -> str:
    """A setting as flags, what is as by default left out."""
    parts = []
    for field in dataclasses.fields(setting):
        value = getattr(setting, field.name)
        if value != field.default:
            parts.append(f"{field.name}={value}")
    return " ".join(parts)


def _stored(setting: Setting, future: Any, store: Store) -> str | None:
    """Stores a result, or returns why there is no result to store."""
    try:
        result = future.result()
    except CancelledError as error:
        raise CommandError(
            "The scheduler is gone, and with it the runs that were on their way. Start it "
            "again and give the same command: what is finished is stored."
        ) from error
    except KilledWorker as error:
        return (
            f"{error.allowed_failures + 1} workers died with it, perhaps for want of "
            "memory; it is left out."
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    try:
        store.add(setting, result)
    except (TypeError, ValueError) as error:
        return f"its result cannot be stored: {error}"
    return None


def _progress(console: Console) -> Progress:
    return BarOrLines(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        # Seconds that the estimate looks back: all of them, as runs take long.
        speed_estimate_period=float("inf"),
    )
