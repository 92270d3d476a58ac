"""Where cached activations are kept: in memory, or in a file of a folder."""

import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MEMORY = "memory"
"""The `cache` that is no folder."""

# Arrays in the file begin at multiples of it.
_ALIGNED = 64


class ActivationStore:
    """Arrays with a row for each example, one stage's after another's.

    Args:
        cache: `"memory"`, or the path of a folder, which is made if need be.
        size: Integer, the most bytes that the arrays of a stage take.

    Raises:
        ValueError: If the folder is full or not writable, or `cache` is neither.
    """

    def __init__(self, cache: Any, size: int):
        near = str(cache).strip().lower() in ("", MEMORY) and cache != MEMORY
        if near or not isinstance(cache, str | os.PathLike):
            raise ValueError(
                f"cache={cache!r}: expected None, 'memory', or the path of a folder."
            )
        self.path: pathlib.Path | None = None
        if cache != MEMORY:
            self.path = _reserve(pathlib.Path(cache), size + 64 * _ALIGNED)
        self.arrays: list[np.ndarray] = []

    def allocate(self, shapes: Sequence[tuple], dtypes: Sequence[Any]) -> None:
        """Makes arrays, in place of those of the stage before."""
        self.arrays = []
        offset = 0
        for shape, dtype in zip(shapes, dtypes, strict=True):
            if self.path is None:
                self.arrays.append(np.empty(shape, dtype))
                continue
            self.arrays.append(np.memmap(self.path, dtype, "r+", offset, shape))
            offset += -(-math.prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED

    def write(self, array: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Writes what belongs to some examples."""
        self.arrays[array][rows] = values

    def readers(self) -> list[Callable[[Any], Any]]:
        """A function for each array, from the numbers of examples to their rows."""
        return [_reader(array, self.path is None) for array in self.arrays]

    def close(self) -> None:
        """Gives the memory back and removes the file."""
        self.arrays = []
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _reader(array: np.ndarray, in_memory: bool) -> Callable[[Any], Any]:
    import tensorflow as tf  # not on JAX, unless it is used

    held = tf.constant(array) if in_memory else None

    def read(rows: Any) -> Any:
        if held is not None:
            found = tf.gather(held, rows)
        else:
            found = tf.numpy_function(lambda r: np.asarray(array[r]), [rows], array.dtype)
        # Those of all examples in one axis, as the model returned them.
        return tf.ensure_shape(
            tf.reshape(found, [-1, *array.shape[2:]]), [None, *array.shape[2:]]
        )

    return read


def _reserve(folder: pathlib.Path, size: int) -> pathlib.Path:
    """A file of that size in a folder: what it needs is taken before training begins."""
    need = f"cache: the folder {str(folder)!r} ought to hold {size / 2**20:.1f} MiB"
    path = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".activations", dir=folder)
        path = pathlib.Path(name)
        with os.fdopen(handle, "r+b") as file:
            _take(file, size)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        raise ValueError(
            f"{need} of cached activations, and cannot: {error.strerror or error}. Give "
            "another folder, make room, or use cache='memory'."
        ) from error
    return path


def _take(file: Any, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    # A file that only has the size would fail when it is written to through a map.
    block = bytes(2**20)
    for _ in range(-(-size // len(block))):
        file.write(block)
