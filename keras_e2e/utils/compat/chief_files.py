"""Private names of Keras that its callbacks take where several workers train as one.

Keras 3.15 lets each worker write the files of all: into one folder they write at once, and
a backup is then of one worker or of another.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import keras
from keras.src.utils import file_utils

from keras_e2e.utils.workers import (
    is_chief,
    on_several_workers,
    told_by_all,
)

# What the chief alone does: each of these methods writes, and does nothing else.
WRITING = {
    keras.callbacks.BackupAndRestore: ("_save_model",),
    keras.callbacks.ModelCheckpoint: ("_save_model",),
    keras.callbacks.CSVLogger: ("on_train_begin", "on_epoch_end", "on_train_end"),
    keras.callbacks.TensorBoard: (
        *("on_train_begin", "on_train_end", "on_test_begin", "on_test_end"),
        *("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin"),
        *("on_test_batch_end", "on_epoch_begin", "on_epoch_end"),
    ),
}


def let_chief_write() -> None:
    """Lets the chief alone write what callbacks of Keras write, for this process.

    Where there is one worker they do as before. Called again, it does nothing.
    """
    if hasattr(keras.callbacks.BackupAndRestore.on_train_begin, "__wrapped__"):
        return
    for kind, methods in WRITING.items():
        for name in methods:
            setattr(kind, name, _of_chief(getattr(kind, name)))
    board, backup = keras.callbacks.TensorBoard, keras.callbacks.BackupAndRestore
    board.set_model = _with_writers(board.set_model)
    backup.on_train_begin = _restored_alike(backup.on_train_begin)
    backup.on_train_end = _removed_last(backup.on_train_end)


def _of_chief(method: Callable) -> Callable:
    @functools.wraps(method)
    def run(self, *args, **kwargs):
        if is_chief(self.model):
            return method(self, *args, **kwargs)
        return None

    return run


def _with_writers(set_model: Callable) -> Callable:
    """`TensorBoard.set_model`, which makes files."""

    @functools.wraps(set_model)
    def run(self, model):
        if is_chief(model):
            set_model(self, model)
        else:
            self._model = model

    return run


def _restored_alike(restore: Callable) -> Callable:
    """`BackupAndRestore.on_train_begin`: the chief first, for it may mend the backup."""

    @functools.wraps(restore)
    def run(self, logs=None):
        if not on_several_workers(self.model):
            restore(self, logs)
            return
        _refuse_other_backups(self)
        if not is_chief(self.model):
            told_by_all(self.model, "the backup is restored")
        restore(self, logs)
        if is_chief(self.model):
            told_by_all(self.model, "the backup is restored")

    return run


def _refuse_other_backups(callback: Any) -> None:
    """Raises RuntimeError unless all workers find the same backup, or none."""
    paths = callback._training_metadata_path, callback._weights_path
    found = told_by_all(callback.model, "the backup", [*map(_digest, paths)])
    others = [number for number, each in enumerate(found) if each != found[0]]
    if others:
        what = ["no backup", "another backup"]
        theirs = what[found[others[0]][1] is not None]
        ours = "none" if found[0][1] is None else "one"
        raise RuntimeError(
            f"BackupAndRestore({str(callback.backup_dir)!r}): the chief finds {ours}, "
            f"worker {others[0]} finds {theirs}. The chief alone writes it, and all "
            "workers read it: give all of them the same backup_dir, on a disk that all "
            "hosts share; to begin anew, remove it on all of them."
        )


def _digest(path: str) -> str | None:
    """What is equal for equal files; None where there is none."""
    if not file_utils.exists(path):
        return None
    with file_utils.File(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _removed_last(end: Callable) -> Callable:
    """`BackupAndRestore.on_train_end`: the backup stays until all workers are through."""

    @functools.wraps(end)
    def run(self, logs=None):
        if on_several_workers(self.model):
            told_by_all(self.model, "the backup is removed")
        if is_chief(self.model):
            end(self, logs)

    return run
