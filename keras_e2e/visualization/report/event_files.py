"""Reads the runs below a log directory from their event files.

Not by TensorBoard's EventAccumulator: it passes over damage without a word, keeps all
measurements of a training that was started anew, and holds images and the like in memory.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing import io_wrapper
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from keras_e2e.visualization.tensorboard.run_data import RunData, Scalar, gather


class ReportError(Exception):
    """The report cannot be written; the message names the file and a fix."""


class Notice(NamedTuple):
    """A note to those who read the report, about a file or folder."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass
class Logs:
    """All that was found below a log directory.

    Attributes:
        logdir: The directory, as it was given.
        runs: List of the runs, sorted by name.
        times: When the first and the last measurement of each run were logged, in seconds
            since 1970.
        notices: What could not be read, or was left out.
    """

    logdir: str
    runs: list[RunData] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


def shown(path: str) -> str:
    """A path as a text that can be printed: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def read(logdir: str | os.PathLike[str]) -> Logs:
    """Reads each folder that `ModuleTensorBoard` wrote, those behind links included.

    Args:
        logdir: Path of a local directory.

    Raises:
        ReportError: If it is not a directory, cannot be read, or holds no such logs.
    """
    top = os.fspath(logdir)
    logs = Logs(shown(top))
    if not os.path.exists(top):
        raise ReportError(
            f"The log directory {logs.logdir!r} does not exist: give the log_dir of "
            "ModuleTensorBoard, or a folder above it."
        )
    if not os.path.isdir(top):
        raise ReportError(
            f"The log directory {logs.logdir!r} is a file: give the folder that it is in, "
            f"{shown(os.path.dirname(top) or '.')!r}."
        )
    if not os.access(top, os.R_OK | os.X_OK):
        raise ReportError(
            f"The log directory {logs.logdir!r} cannot be read: get permission to read it, "
            "or copy it to where you have it."
        )
    for folder, files in _folders(top, logs.notices):
        scalars = _Scalars()
        for file in files:
            _read_file(file, scalars, logs.notices)
        run = gather(shown(os.path.relpath(folder, top)), scalars.all())
        if run is None:
            continue
        logs.runs.append(run)
        logs.times.append((scalars.since, scalars.until))
        if scalars.dropped:
            text = (
                f"was written anew from an earlier step on; {scalars.dropped} measurements "
                "of the earlier training are left out."
            )
            logs.notices.append(Notice(run.name, text))
    if not logs.runs:
        raise ReportError(_nothing(logs))
    return logs


def _nothing(logs: Logs) -> str:
    text = (
        f"No logs of ModuleTensorBoard below {logs.logdir!r}: give the log_dir that it "
        "was given, or train with callbacks=[keras_e2e.callbacks.ModuleTensorBoard("
        "log_dir)]."
    )
    return " ".join([text, *map(str, logs.notices)])


def _folders(top: str, notices: list[Notice]) -> Iterator[tuple[str, list[str]]]:
    """Folders with event files, and these in the order of their making."""
    seen = set()  # links can lead in a circle

    def unreadable(error: OSError) -> None:
        notices.append(Notice(shown(error.filename), f"cannot be read: {error.strerror}."))

    for folder, subfolders, names in os.walk(top, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        files = [os.path.join(folder, name) for name in sorted(names)]
        files = [file for file in files if io_wrapper.IsSummaryEventsFile(file)]
        if files:
            yield folder, files


class _Scalars:
    """The scalars of one run, while its files are read one after the other."""

    def __init__(self) -> None:
        self.dropped = 0
        self.since, self.until = float("inf"), float("-inf")
        self._series: dict[str, tuple[list[int], list[float]]] = {}
        self._descriptions: dict[str, str] = {}
        self._last = -1

    def add(self, event: Any) -> None:
        step = event.step
        for value in event.summary.value:
            tag = value.tag
            if not tag.startswith("e2e_") or "/" not in tag:
                continue
            number = _number(value)
            if number is None:
                continue
            if step < self._last:
                self._forget(step)
            self._last = step
            series = self._series.get(tag)
            if series is None:
                series = self._series[tag] = ([], [])
            series[0].append(step)
            series[1].append(number)
            if value.HasField("metadata") and value.metadata.summary_description:
                self._descriptions[tag] = value.metadata.summary_description
            self.since = min(self.since, event.wall_time)
            self.until = max(self.until, event.wall_time)

    def all(self) -> list[Scalar]:
        return [
            Scalar(tag, steps, values, self._descriptions.get(tag, ""))
            for tag, (steps, values) in self._series.items()
        ]

    def _forget(self, step: int) -> None:
        """Drops what a training left behind that was started again, from `step` on."""
        for steps, values in self._series.values():
            kept = sum(1 for s in steps if s < step)
            self.dropped += len(steps) - kept
            del steps[kept:], values[kept:]


# Records asked for at once: one by one takes several times as long.
BATCH = 512


def _records(path: str) -> Iterator[bytes]:
    """The records of a file up to where it is damaged.

    Raises:
        tf.errors.DataLossError: Behind the last one that is whole.
    """
    # Not at the top: a bad log directory is refused without waiting for TensorFlow
    # where Keras runs on another backend.
    import tensorflow as tf

    whole = 0
    dataset = tf.data.TFRecordDataset(os.fsencode(path))
    try:
        for batch in dataset.batch(BATCH).as_numpy_iterator():
            whole += len(batch)
            yield from batch
    except tf.errors.DataLossError:
        # The batch with the damage is lost as a whole.
        yield from dataset.skip(whole).as_numpy_iterator()


def _read_file(path: str, scalars: _Scalars, notices: list[Notice]) -> None:
    import tensorflow as tf

    count = 0
    try:
        for record in _records(path):
            scalars.add(event_pb2.Event.FromString(record))
            count += 1
    except (tf.errors.DataLossError, DecodeError):
        text = (
            f"is damaged or cut off behind record {count}; only what comes before is in "
            "the report. If a training still writes it, run the command again later."
        )
        notices.append(Notice(shown(path), text))
    except tf.errors.OpError as error:
        notices.append(Notice(shown(path), f"cannot be read: {error.message}."))


def _number(value: Any) -> float | None:
    """The one number that a summary holds, of the old or the new kind."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind != "tensor":
        return None
    floats = value.tensor.float_val
    if len(floats) == 1:  # as Writer does; saves most of the time
        return floats[0]
    try:
        array = tensor_util.make_ndarray(value.tensor)
    except (TypeError, ValueError):
        return None
    return float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else None
