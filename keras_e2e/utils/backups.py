"""Files that outlast a process that is killed while it writes them."""

import contextlib
import json
import os
from collections.abc import Iterator


@contextlib.contextmanager
def replaced_at_once(path: str | os.PathLike[str], suffix: str) -> Iterator[str]:
    """Lets a file be written beside the one that it then replaces, whole.

    A process that is killed meanwhile leaves the earlier file as it was.

    Args:
        path: The path of the file, on this machine or, written in place, elsewhere.
        suffix: String that the file's name ends with, as that of the other one must.
    """
    path = os.fspath(path)
    if "://" in path or not path.endswith(suffix):
        yield path
        return
    path = os.path.realpath(path)
    other = f"{path.removesuffix(suffix)}.writing{suffix}"
    try:
        yield other
        os.replace(other, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(other)


def mend_backup(weights: str | os.PathLike[str], epoch: int) -> None:
    """Lets `keras.callbacks.BackupAndRestore` begin with the epoch that fits its weights.

    It writes the epoch after the weights, to a file of its own: a process that is killed
    in between leaves that of the backup before, or an empty file, which is an error.

    Args:
        weights: The path of the backup's weights; of any other file nothing is done.
        epoch: Integer, the epoch to begin with.
    """
    folder, name = os.path.split(os.fspath(weights))
    path = os.path.join(folder, "training_metadata.json")
    if name != "latest.weights.h5" or "://" in folder:
        return
    errors = OSError, ValueError, TypeError, KeyError
    with contextlib.suppress(*errors), open(path) as file:
        if json.load(file)["epoch"] == epoch:
            return
    with replaced_at_once(path, ".json") as other, open(other, "w") as file:
        json.dump({"epoch": epoch, "batch": 0}, file)
