"""Writes one TensorBoard run: its scalars, texts and layout."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from tensorboard.compat.proto import event_pb2, types_pb2
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.plugins.text.summary_v2 import text_pb

# How long what was written may stay unseen, in the middle of a long epoch.
FLUSH_SECONDS = 30.0
# How long after a failed write (a full disk, say) the next one is tried.
RETRY_SECONDS = 60.0


class _Form:
    """An event with several scalars of which only step and values are to be filled in.

    That takes a tenth of the time of making one.

    Args:
        tags: Tuple of the tags.
        descriptions: Dict of the descriptions of those tags that are new.
    """

    def __init__(self, tags: tuple[str, ...], descriptions: Mapping[str, str]):
        self._event = event_pb2.Event()
        self._values = []
        for tag in tags:
            value = self._event.summary.value.add(tag=tag)
            if tag in descriptions:
                about = create_summary_metadata(None, descriptions[tag])
                value.metadata.ParseFromString(about.SerializeToString())
            tensor = value.tensor
            tensor.dtype = types_pb2.DT_FLOAT
            tensor.tensor_shape.SetInParent()
            tensor.float_val.append(0.0)
            self._values.append(tensor.float_val)

    def filled(self, step: int, values: Sequence[float]) -> Any:
        """The event with these values, until it is filled in again."""
        self._event.step = step
        for place, value in zip(self._values, values, strict=True):
            place[0] = value
        return self._event


class Writer:
    """An event file of TensorBoard, written on the host.

    It does without `tf.summary`, which in a step under XLA fails or silently writes
    nothing, and after a step takes 0.45 ms where a record written by hand takes 0.05 ms.
    (TensorBoard's EventFileWriter computes checksums in Python, in a thread that holds
    up the next step.) Conditions that other callbacks set for `tf.summary` do not apply.

    A write that fails (a full disk, say) is named in one warning, and training goes on.
    A minute later writing is tried again, to a new file of the same run: readers stop at
    the damaged end of the first one. What was to be written in the meantime is missing.

    Args:
        folder: String, the folder of the run; created if necessary.
        descriptions: Dict of the description of each scalar, by tag.

    Raises:
        OSError: If the folder cannot be written.

    Example:

    >>> import os, tempfile
    >>> from keras_e2e.visualization.tensorboard.event_writer import Writer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = Writer(folder, {"e2e_loss/01_encoder": "`loss`."})
    ...     writer.scalars(1, [("e2e_loss/01_encoder", 0.7)])
    ...     writer.close()
    ...     len(os.listdir(folder))
    1
    """

    def __init__(self, folder: str, descriptions: Mapping[str, str]):
        # Not at the top: where Keras runs on another backend nobody needs TensorFlow.
        import tensorflow as tf

        self._folder, self._descriptions = folder, descriptions
        self._described: set[str] = set()
        self._forms: dict[tuple[str, ...], _Form] = {}
        self._errors = OSError, tf.errors.OpError
        self._warned = False
        self._time_of_events: float | None = None  # None for now
        self._file: Any = None  # None after a failed write
        try:
            tf.io.gfile.makedirs(folder)
            self._open()
        except self._errors as error:
            raise OSError(
                f"Cannot write TensorBoard logs to {folder!r}: {error}. Give a log_dir "
                "that is a folder, or can become one, and may be written to."
            ) from error

    def write(self, step: int, summary: Any) -> None:
        """Writes a Summary protocol buffer."""
        event = event_pb2.Event(step=step)
        # TensorFlow has a Summary class of its own, which goes by the same bytes.
        event.summary.ParseFromString(summary.SerializeToString())
        self._put(event)

    def scalars(self, step: int, scalars: Iterable[tuple[str, float]]) -> None:
        """Writes several scalars, pairs of tag and value, at one step."""
        pairs = list(scalars)
        tags = tuple([tag for tag, _ in pairs])
        form = self._forms.get(tags)
        if form is None:
            # TensorBoard takes description and kind from the first of a tag.
            new = {t: self._descriptions[t] for t in tags if t not in self._described}
            form = _Form(tags, new)
            if new:
                self._described.update(new)
            else:
                self._forms[tags] = form
        self._put(form.filled(step, [value for _, value in pairs]))

    @contextlib.contextmanager
    def at(self, time_of_events: float) -> Iterator[None]:
        """Gives what is written inside a time of its own, in seconds since the epoch."""
        self._time_of_events = time_of_events
        try:
            yield
        finally:
            self._time_of_events = None

    def text(self, step: int, tag: str, text: str) -> None:
        """Writes a text in Markdown."""
        self.write(step, text_pb(tag, text))

    def _put(self, event: Any) -> None:
        """Writes an event, and flushes now and then."""
        if self._file is None and time.monotonic() > self._tried + RETRY_SECONDS:
            self._attempt(self._open)
        if self._file is not None:
            self._attempt(self._add, event)
        if time.monotonic() > self._flushed + FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Makes what was written visible to TensorBoard."""
        self._flushed = time.monotonic()
        if self._file is not None:
            self._attempt(self._file.flush)

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._file is not None:
            self._attempt(self._file.close)

    def _open(self) -> None:
        """Begins a file."""
        import tensorflow as tf

        self._tried = self._flushed = time.monotonic()
        # A name of its own for each fit, however soon it follows the last one.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = tf.io.TFRecordWriter(tf.io.gfile.join(self._folder, name))
        self._described.clear()
        self._forms.clear()
        self._add(event_pb2.Event(file_version="brain.Event:2"))
        self._file.flush()

    def _add(self, event: Any) -> None:
        now = time.time() if self._time_of_events is None else self._time_of_events
        event.wall_time = now
        self._file.write(event.SerializeToString())

    def _attempt(self, write: Callable[..., None], *arguments: Any) -> None:
        """Writes; gives the file up, with one warning, if it cannot be written."""
        try:
            write(*arguments)
        except self._errors as error:
            self._file, self._tried = None, time.monotonic()
            if not self._warned:
                self._warned = True
                logging.warning(
                    "ModuleTensorBoard: cannot write to %r (%s). Training goes on; writing "
                    "is tried again each minute, and what comes in between is missing.",
                    *(self._folder, getattr(error, "message", error)),
                )
